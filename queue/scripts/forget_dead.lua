-- Deletes one dead letter, with its marker in `dead_ids` if that names it. Returns 1 if it was still there, else 0.
local function forget_dead(letter, id)
  if id ~= '' and redis.call('HGET', dead_ids, id) == letter then redis.call('HDEL', dead_ids, id) end
  return redis.call('XDEL', dead, letter)
end

local function id_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then return fields[i + 1] end
  end
  return ''
end

-- Deletes the oldest dead letter, counts it as trimmed, and returns true; or false when there is none as old as that.
local function trim_oldest(newest)
  local oldest = redis.call('XRANGE', dead, '-', newest, 'COUNT', 1)
  if #oldest == 0 then return false end
  forget_dead(oldest[1][1], id_of(oldest[1][2]))
  redis.call('HINCRBY', counters, 'dead_trimmed', 1)
  return true
end
