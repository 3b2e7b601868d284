-- KEYS: the turns of a queue. ARGV: microseconds between two transactions and for each row, 0 for no limit; whether a turn
-- is asked for, 1 or 0; the rows of transactions whose turn has come since; the number of partitions. Returns the
-- microseconds until the turn.
--
-- One bucket for all partitions and workers: who asks gets the next turn, and asks for another one only after it.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local between, per_row, rows, partitions = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local limits = ARGV[1] .. ' ' .. ARGV[2]

local stored = redis.call('HMGET', KEYS[1], 'turn_us', 'rows_us', 'limits')
local turn_us, rows_us = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
if stored[3] ~= limits then  -- nobody waits by a slower pace that is no longer meant
  turn_us, rows_us = math.min(turn_us, now_us + between), math.min(rows_us, now_us + 1000000)
end
-- Each drain waits for one turn at most: what is later comes from a clock that was set back.
turn_us = math.min(turn_us, now_us + partitions * between)
rows_us = math.min(rows_us, now_us + 1000000 + partitions * per_row)
-- Rows are paid for afterwards: nobody knows before how many there will be.
rows_us = math.max(rows_us, now_us) + rows * per_row
local wait_us = 0
if ARGV[3] == '1' then
  local turn = math.max(turn_us, rows_us, now_us)
  wait_us, turn_us = turn - now_us, turn + between
end
redis.call('HDEL', KEYS[1], '')  -- a first write that needs no memory
redis.call('HSET', KEYS[1], 'turn_us', string.format('%.0f', turn_us), 'rows_us', string.format('%.0f', rows_us),
  'limits', limits)
return string.format('%.0f', wait_us)
