-- ARGV: milliseconds that a dead letter is kept, most to delete at once. Returns how many were deleted.
local newest = text_of(math.max(now_ms - tonumber(ARGV[1]), 0))
local deleted = 0
while deleted < tonumber(ARGV[2]) and trim_oldest(newest) do deleted = deleted + 1 end
return deleted
