-- KEYS: the state of the queue's target. ARGV: milliseconds for which a drain that tries it is waited for.
-- Returns 1 when the drain may try now: the target is back, or no other drain tries it and the latest has failed a while ago.
local state = redis.call('GET', KEYS[1])
if state == 'back' then return 1 end
if state then return 0 end
redis.call('DEL', KEYS[1])  -- a first write that needs no memory
redis.call('SET', KEYS[1], 'probing', 'PX', ARGV[1])
return 1
