-- ARGV: id, reply, max_backlog, then the entry's fields and values.
-- Returns {1, entry} when appended, {0, entry} when the request is queued already, {-1, backlog} when the stream is full.
--
-- A request id that is live AND whose entry still exists is not appended again: an outage would multiply the backlog.
-- The entry is looked up because Redis may have lost it while the marker survived, and because it may be the request of
-- an earlier attempt of the same workflow, whose answer does not bind this one.
local id, reply, max_backlog = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = redis.call('HGET', live, id)
local found = known and redis.call('XRANGE', stream, known, known) or {}
if #found > 0 then
  local fields = found[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'reply' and fields[i + 1] == reply then return {0, known} end
  end
end
local backlog = redis.call('XLEN', stream)
if backlog >= max_backlog then return {-1, tostring(backlog)} end
local entry = redis.call('XADD', stream, '*', 'counted', '1', unpack(ARGV, 4))
redis.call('HSET', live, id, entry)
redis.call('HINCRBY', counters, 'appended', 1)
return {1, entry}
