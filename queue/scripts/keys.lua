-- The keys of one partition: the beginning of every script that takes them. Whoever may append is allowed the first five
-- only; append.lua gets no others.
local stream, live, dead, counters, dead_ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local alone, held, orders = KEYS[6], KEYS[7], KEYS[8]
