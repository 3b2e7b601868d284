-- Deletes one dead letter, with its marker in `dead_ids`. Returns 1 if it was still there, else 0.
local function forget_dead(letter)
  unmark(dead_ids, letter[2], letter[1])
  return redis.call('XDEL', dead, letter[1])
end

-- Deletes the oldest dead letter, counts it as trimmed, and returns true; or false when there is none as old as that.
local function trim_oldest(newest)
  local oldest = redis.call('XRANGE', dead, '-', newest, 'COUNT', 1)
  if #oldest == 0 then return false end
  forget_dead(oldest[1])
  redis.call('HINCRBY', counters, 'dead_trimmed', 1)
  return true
end
