-- ARGV: request id, reply, max_backlog, then the entry's fields and values.
-- Returns {1, entry}: appended; {0, entry}: queued already; {-1, backlog}: the stream is full.
--
-- A request that is still queued is not appended again: during an outage, resubmissions would multiply the backlog. The
-- marker in `live` is not enough: Redis may have lost the entry and kept the marker, or the entry may belong to an
-- earlier attempt of the same workflow, whose outcome does not bind this one.
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
