local LONGEST_FIELD = 8192  -- of a huge entry's fields that are kept: a reply address fits
local MOST_FIELDS = 50  -- of those that are kept

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
-- One by one, because the next entry may be huge; that takes no more than twice the time. `next_entry` gets the id of the
-- one before.
local function collect(next_entry, after, count, bytes, largest)
  local found, total = {}, 0
  while #found < tonumber(count) and total < tonumber(bytes) do
    local entry = next_entry(after)
    if not entry then break end
    local fields, size = entry[2], 0
    for _, part in ipairs(fields) do size = size + #part end
    if size > tonumber(largest) then fields = short(fields) end
    found[#found + 1] = {entry[1], fields, size}
    total = total + size  -- also of what is left out: it occupies the server
    after = entry[1]
  end
  return found
end

local function behind(after) return after == '0' and '-' or '(' .. after end

-- The first entry behind `after`, but not behind `last`.
local function next_until(last)
  return function(after) return redis.call('XRANGE', KEYS[1], behind(after), last, 'COUNT', 1)[1] end
end
