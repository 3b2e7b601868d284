-- ARGV: group. Returns the number of entries, of those pending, of those held, of dead letters, the age of the oldest
-- entry in milliseconds, and the counters.
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local age = oldest and math.max(now_ms - tonumber(string.match(oldest[1], '%d+')), 0) or 0
local group = group_info(stream, ARGV[1])
return {
  redis.call('XLEN', stream), group and group['pending'] or 0, redis.call('HLEN', held), redis.call('XLEN', dead), age,
  redis.call('HGETALL', counters)
}
