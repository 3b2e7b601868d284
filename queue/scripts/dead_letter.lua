-- ARGV: group, entry, request id, outcome, counted, reason, most dead letters to keep. Returns 1 if the entry was still
-- there, else 0.
local MOST_TRIMMED = 100  -- at once, when fewer are to be kept than before
local found = redis.call('XRANGE', stream, ARGV[2], ARGV[2])
if #found > 0 then
  local fields = found[1][2]
  redis.call('HDEL', live, '')  -- a first write that needs no memory
  for _ = 1, MOST_TRIMMED do
    if redis.call('XLEN', dead) < tonumber(ARGV[7]) or not trim_oldest('+') then break end
  end
  local kept = math.min(#fields, 7000)  -- Lua's unpack takes at most 8,000 values
  local letter = redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', ARGV[2], unpack(fields, 1, kept))
  if ARGV[3] ~= '' then redis.call('HSET', dead_ids, ARGV[3], letter) end
end
return forget(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
