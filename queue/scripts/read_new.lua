-- KEYS: the stream. ARGV: group, consumer, after, count, bytes, largest entry.
-- Returns the entries behind `after`: those that have been delivered, to whomever, and then new ones. So each of two drains
-- reads all entries of a key, in order.
local about = group_info(KEYS[1], ARGV[1])
local delivered = about and next_until(about['last-delivered-id'])

local function next_entries(after, count)
  local entries = delivered and delivered(after, count) or {}
  if #entries > 0 then return entries end
  delivered = nil
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', KEYS[1], '>')
  return reply and reply[1][2] or {}
end

return collect(next_entries, unpack(ARGV, 3))
