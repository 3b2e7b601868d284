local LONGEST_FIELD = 8192  -- of a huge entry's fields that are kept: a reply address fits
local MOST_FIELDS = 50  -- of those that are kept
local SMALL = 8192  -- bytes of an entry, in the mean
local MOST_AT_ONCE = 8  -- of small entries; the next ones may be huge, and must fit into this server twice

local function short(fields)
  local kept = {}
  for i = 1, #fields, 2 do
    if #fields[i] + #fields[i + 1] <= LONGEST_FIELD and #kept < 2 * MOST_FIELDS then
      kept[#kept + 1] = fields[i]
      kept[#kept + 1] = fields[i + 1]
    end
  end
  return kept
end

-- Collects up to `count` entries behind `after`, fewer once they have `bytes` together, each as {id, fields, size}. Of an
-- entry larger than `largest`, only its short fields: whoever reads need not have room for it.
--
-- `next_entries` gets the id of the one before, and how many: one while entries are large. What it returns beyond `bytes`
-- is left for the next read.
local function collect(next_entries, after, count, bytes, largest)
  count, bytes, largest = tonumber(count), tonumber(bytes), tonumber(largest)
  local found, total, at_once = {}, 0, 1
  while #found < count and total < bytes do
    local entries = next_entries(after, math.min(at_once, count - #found))
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if total >= bytes then break end
      local fields, size = entry[2], 0
      for i = 1, #fields do size = size + #fields[i] end
      if size > largest then fields = short(fields) end
      found[#found + 1] = {entry[1], fields, size}
      total = total + size  -- also of what is left out: it occupies the server
      after = entry[1]
    end
    at_once = total < SMALL * #found and math.min(2 * at_once, MOST_AT_ONCE) or 1
  end
  return found
end

local function behind(after) return after == '0' and '-' or '(' .. after end

-- The first entries behind `after`, but not behind `last`.
local function next_until(last)
  return function(after, count) return redis.call('XRANGE', KEYS[1], behind(after), last, 'COUNT', count) end
end
