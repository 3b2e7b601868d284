-- ARGV: group, entry, id, outcome, counted, reason. Lua unpacks no more than 8,000 values.
local found = redis.call('XRANGE', stream, ARGV[2], ARGV[2])
if #found > 0 then
  local fields = found[1][2]
  redis.call('HDEL', live, '')  -- the first write, which needs no memory
  local kept = math.min(#fields, 7000)
  redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', ARGV[2], unpack(fields, 1, kept))
end
return forget(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
