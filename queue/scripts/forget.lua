-- Whether the fields have this one. What a drain does not hold ('') may be any: of a huge entry it lacks some.
local function has(fields, name, value)
  for i = 1, #fields, 2 do
    if fields[i] == name and fields[i + 1] == value then return true end
  end
  return value == ''
end

-- The fields of an entry that a drain holds: {} when it is gone, nil when another one has its id. Ids that a failover
-- lost are given again while the clock is behind them.
local function fields_of(entry, id, counted)
  local found = redis.call('XRANGE', stream, entry, entry)
  if #found == 0 then return {} end
  local fields = found[1][2]
  return has(fields, 'id', id) and has(fields, 'counted', counted) and fields or nil
end

-- Removes one entry, with its marker in `live`, and counts its outcome. Returns 1 if the entry was still there, else 0.
-- When the stream is empty, every marker is stale.
-- An entry that was added without append.lua is counted as appended here, so that the counters add up.
local function forget(group, entry, fields, outcome, counted)
  redis.call('XACK', stream, group, entry)
  local deleted = redis.call('XDEL', stream, entry)
  if deleted == 1 and outcome ~= '' then
    redis.call('HINCRBY', counters, outcome, 1)
    if counted == '' then redis.call('HINCRBY', counters, 'appended', 1) end
  end
  unmark(live, fields, entry)
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', live, alone, held, orders)
  else
    redis.call('HDEL', alone, entry)
    redis.call('HDEL', held, entry)
    redis.call('HDEL', orders, entry)
  end
  return deleted
end
