-- ARGV: dead letter, and its new signature when it is signed. Moves it back into the stream under its request id; `first`
-- keeps the time of its first append, and `replayed` tells that no earlier rejection binds it. Returns the id of the new
-- entry, or nothing when the dead letter is gone.
local found = redis.call('XRANGE', dead, ARGV[1], ARGV[1])
if #found == 0 then return false end
local fields = found[1][2]
local entry = {}
local first, appended = nil, string.match(fields[4], '%d+')
for i = 5, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'first' then first = value
  elseif name == 'counted' then appended = value
  elseif name ~= 'replayed' then
    entry[#entry + 1] = name
    entry[#entry + 1] = name == 'sig' and ARGV[2] or value
  end
end
local added = redis.call('XADD', stream, '*', 'counted', text_of(now_ms), 'replayed', '1', 'first', first or appended,
  unpack(entry))
redis.call('HINCRBY', counters, 'appended', 1)
mark(live, entry, added)
forget_dead(found[1])
return added
