-- ARGV: group, entry, request id, outcome, counted, reason, most dead letters to keep. Returns 1 if the entry was still
-- there, else 0.
local MOST_TRIMMED = 100  -- at once, when fewer are to be kept than before
local entry, counted = ARGV[2], ARGV[5]
local fields = reader({entry})(1)
if fields then
  if not are_those_of(fields, ARGV[3], counted) then return 0 end
  redis.call('HDEL', live, '')  -- a first write that needs no memory
  for _ = 1, MOST_TRIMMED do
    if redis.call('XLEN', dead) < tonumber(ARGV[7]) or not trim_oldest('+') then break end
  end
  local kept = {unpack(fields, 1, math.min(#fields, 7000))}  -- Lua's unpack takes at most 8,000 values
  local letter = redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', entry, unpack(kept))
  mark(dead_ids, kept, letter)
end
return forget(ARGV[1], {{entry, fields and marker_of(request_of(fields)), ARGV[4], counted}})
