local READ_AT_ONCE = 8  -- entries

-- Returns a function that returns the fields of the entry with the given number in `ids`; nil when it is gone. Most follow
-- each other in the stream as they do in `ids`, so several are read at a time.
local function reader(ids)
  local read = {}
  return function(number)
    local entry = ids[number]
    if not read[entry] then
      read = {}
      local last = ids[math.min(number + READ_AT_ONCE - 1, #ids)]
      for _, found in ipairs(redis.call('XRANGE', stream, entry, last, 'COUNT', READ_AT_ONCE)) do
        read[found[1]] = found[2]
      end
    end
    if not read[entry] then  -- gone, or `ids` are not in order
      local found = redis.call('XRANGE', stream, entry, entry)[1]
      read[entry] = found and found[2]
    end
    return read[entry]
  end
end

local function has(fields, name, value)
  for i = 1, #fields, 2 do
    if fields[i] == name and fields[i + 1] == value then return true end
  end
  return value == ''
end

-- Whether these are the fields of the entry that a drain holds, and not of another one that has got its id: ids that a
-- failover lost are given again while the clock is behind them. What the drain does not hold ('') may be any: of a huge
-- entry it lacks some, also of several with one name.
local function are_those_of(fields, id, counted) return has(fields, 'id', id) and has(fields, 'counted', counted) end

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
