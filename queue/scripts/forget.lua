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

local AT_ONCE = 1000  -- ids in one command: Lua's unpack takes at most 8,000 values

-- Removes entries with all that is kept about them, and counts their outcomes. Each is {entry, fields, outcome, counted}.
-- Returns how many were still there. When the stream is empty, every marker is stale.
-- An entry that was added without append.lua is counted as appended here, so that the counters add up.
local function forget(group, entries)
  local ids, counts, deleted = {}, {}, 0
  for i, one in ipairs(entries) do
    local entry, fields, outcome, counted = unpack(one)
    ids[i] = entry
    if #fields > 0 then
      deleted = deleted + 1
      unmark(live, fields, entry)
      if outcome ~= '' then
        counts[outcome] = (counts[outcome] or 0) + 1
        if counted == '' then counts['appended'] = (counts['appended'] or 0) + 1 end
      end
    end
  end
  for first = 1, #ids, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, #ids)
    redis.call('XACK', stream, group, unpack(ids, first, last))
    redis.call('XDEL', stream, unpack(ids, first, last))
    for _, key in ipairs({alone, held, orders}) do redis.call('HDEL', key, unpack(ids, first, last)) end
  end
  for name, number in pairs(counts) do redis.call('HINCRBY', counters, name, number) end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', live, alone, held, orders) end
  return deleted
end
