-- Milliseconds since the epoch, by the clock that stamps the entries, and as a text without an exponent.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function text_of(ms) return string.format('%.0f', ms) end
