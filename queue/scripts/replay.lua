-- ARGV: dead letter. Moves it back into the stream under its request id; `first` keeps the time of its first append.
-- Returns the id of the new entry, or nothing when the dead letter is gone.
local found = redis.call('XRANGE', dead, ARGV[1], ARGV[1])
if #found == 0 then return false end
local fields = found[1][2]
local entry = {}
local id, first = '', string.match(fields[4], '%d+')
for i = 5, #fields, 2 do
  if fields[i] == 'first' then first = fields[i + 1]
  elseif fields[i] ~= 'counted' then
    if fields[i] == 'id' then id = fields[i + 1] end
    entry[#entry + 1] = fields[i]
    entry[#entry + 1] = fields[i + 1]
  end
end
local added = redis.call('XADD', stream, '*', 'counted', '1', 'first', first, unpack(entry))
redis.call('HINCRBY', counters, 'appended', 1)
if id ~= '' then redis.call('HSET', live, id, added) end
redis.call('XDEL', dead, ARGV[1])
return added
