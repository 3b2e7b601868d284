-- ARGV: group, entry, request id, outcome, counted, reason. Returns 1 if the entry was still there, else 0.
local found = redis.call('XRANGE', stream, ARGV[2], ARGV[2])
if #found > 0 then
  local fields = found[1][2]
  redis.call('HDEL', live, '')  -- a first write that needs no memory
  local kept = math.min(#fields, 7000)  -- Lua's unpack takes at most 8,000 values
  redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', ARGV[2], unpack(fields, 1, kept))
end
return forget(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
