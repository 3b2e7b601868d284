-- ARGV: group, entry, request id, outcome, counted, reason, most dead letters to keep. Returns 1 if the entry was still
-- there, else 0.
local MOST_TRIMMED = 100  -- at once, when fewer are to be kept than before
local fields = fields_of(ARGV[2], ARGV[3], ARGV[5])
if not fields then return 0 end
if #fields > 0 then
  redis.call('HDEL', live, '')  -- a first write that needs no memory
  for _ = 1, MOST_TRIMMED do
    if redis.call('XLEN', dead) < tonumber(ARGV[7]) or not trim_oldest('+') then break end
  end
  local kept = {unpack(fields, 1, math.min(#fields, 7000))}  -- Lua's unpack takes at most 8,000 values
  local letter = redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', ARGV[2], unpack(kept))
  mark(dead_ids, kept, letter)
end
return forget(ARGV[1], {{ARGV[2], fields, ARGV[4], ARGV[5]}})
