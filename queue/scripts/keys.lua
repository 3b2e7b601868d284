-- The keys of one partition: the beginning of every script that takes them all.
local stream, live, dead, counters, alone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
