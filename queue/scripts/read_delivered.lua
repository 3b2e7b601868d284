-- KEYS: the stream. ARGV: group, consumer, after, count, bytes, largest entry.
-- Returns the entries behind `after` that have been delivered, to whomever, each as {id, fields, size, deliveries}. They
-- are this consumer's from now on, and this counts as a delivery. Of the pending entries among them that were deleted by
-- hand, nothing is left.
local group, consumer, after = ARGV[1], ARGV[2], ARGV[3]
local about = group_info(KEYS[1], group)
if not about then return {} end
local last = about['last-delivered-id']
local found = collect(next_until(last), unpack(ARGV, 3))
if #found > 0 then last = found[#found][1] end

local deliveries, start = {}, behind(after)
repeat
  local pending = redis.call('XPENDING', KEYS[1], group, start, last, 100)
  for _, one in ipairs(pending) do
    deliveries[one[1]] = one[4]
    start = behind(one[1])
  end
until #pending == 0

for _, entry in ipairs(found) do
  local id = entry[1]
  entry[4] = (deliveries[id] or 0) + 1
  -- FORCE for those that are pending for nobody any more: somebody deleted their consumer.
  redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'RETRYCOUNT', entry[4], 'FORCE', 'JUSTID')
  deliveries[id] = nil
end
for id in pairs(deliveries) do redis.call('XACK', KEYS[1], group, id) end
return found
