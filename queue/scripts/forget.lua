-- Removes one entry and counts its outcome. Returns 1 if the entry was still there, else 0.
-- Its marker in `live` is removed only if it names this entry. When the stream is empty, every marker is stale.
-- An entry that was added without append.lua is counted as appended here, so that the counters add up.
local function forget(group, entry, id, outcome, counted)
  redis.call('XACK', stream, group, entry)
  local deleted = redis.call('XDEL', stream, entry)
  if deleted == 1 and outcome ~= '' then
    redis.call('HINCRBY', counters, outcome, 1)
    if counted == '' then redis.call('HINCRBY', counters, 'appended', 1) end
  end
  if id ~= '' and redis.call('HGET', live, id) == entry then redis.call('HDEL', live, id) end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', live, alone, held, orders)
  else
    redis.call('HDEL', alone, entry)
    redis.call('HDEL', held, entry)
    redis.call('HDEL', orders, entry)
  end
  return deleted
end
