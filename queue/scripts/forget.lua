local MOST_AHEAD = 32  -- entries in one command

-- Returns a function that returns the fields of an entry in the stream; nil when it is gone. Most that are asked for follow
-- each other: after those that were wanted it reads as many again at once, and after one that was not, one by one.
local function reader()
  local read, wanted, ahead = {}, 0, 1
  return function(entry)
    local fields = read[entry]
    if not fields then
      if #read > 0 then ahead = wanted == #read and math.min(2 * ahead, MOST_AHEAD) or 1 end
      read, wanted = {}, 0
      for i, found in ipairs(redis.call('XRANGE', stream, entry, '+', 'COUNT', ahead)) do
        read[i], read[found[1]] = true, found[2]
      end
      fields = read[entry]
    end
    if fields then wanted = wanted + 1 end
    return fields
  end
end

-- Whether these are the fields of the entry that a drain holds, and not of another one that has got its id: ids that a
-- failover lost are given again while the clock is behind them. What the drain does not hold ('') may be any: of a huge
-- entry it lacks some.
local function are_those_of(fields, id, counted)
  local its_id, its_counted = '', ''
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then its_id = fields[i + 1]
    elseif fields[i] == 'counted' then its_counted = fields[i + 1] end
  end
  return (id == '' or id == its_id) and (counted == '' or counted == its_counted)
end

local AT_ONCE = 1000  -- ids in one command: Lua's unpack takes at most 8,000 values

-- Removes the markers in `live` that name the entry they are given for: {entry, marker}.
local function unmark_all(marked)
  for first = 1, #marked, AT_ONCE do
    local markers, stale = {}, {}
    for i = first, math.min(first + AT_ONCE - 1, #marked) do markers[#markers + 1] = marked[i][2] end
    for i, named in ipairs(redis.call('HMGET', live, unpack(markers))) do
      if named == marked[first + i - 1][1] then stale[#stale + 1] = markers[i] end
    end
    if #stale > 0 then redis.call('HDEL', live, unpack(stale)) end
  end
end

-- Removes entries with all that is kept about them, and counts their outcomes. Each is {entry, its marker or nil when it is
-- gone, outcome, counted}. Returns how many were still there. When the stream is empty, every marker is stale.
-- An entry that was added without append.lua is counted as appended here, so that the counters add up.
local function forget(group, entries)
  local ids, marked, counts = {}, {}, {}
  for i, one in ipairs(entries) do
    local entry, marker, outcome, counted = one[1], one[2], one[3], one[4]
    ids[i] = entry
    if marker then
      marked[#marked + 1] = one
      if outcome ~= '' then
        counts[outcome] = (counts[outcome] or 0) + 1
        if counted == '' then counts['appended'] = (counts['appended'] or 0) + 1 end
      end
    end
  end
  unmark_all(marked)
  for first = 1, #ids, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, #ids)
    redis.call('XACK', stream, group, unpack(ids, first, last))
    redis.call('XDEL', stream, unpack(ids, first, last))
    for _, key in ipairs({alone, held, orders}) do redis.call('HDEL', key, unpack(ids, first, last)) end
  end
  for name, number in pairs(counts) do redis.call('HINCRBY', counters, name, number) end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', live, alone, held, orders) end
  return #marked
end
