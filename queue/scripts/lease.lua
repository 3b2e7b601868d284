-- KEYS: a lease. ARGV: the holder's word for it; milliseconds for which it holds; a word by which it is open to everybody.
-- Returns 1 when whoever asks may go ahead: the lease is open, or nobody had it.
local held = redis.call('GET', KEYS[1])
if held then return held == ARGV[3] and 1 or 0 end
redis.call('DEL', KEYS[1])  -- a first write that needs no memory
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
