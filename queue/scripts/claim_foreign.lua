-- KEYS: the stream. ARGV: group, consumer, idle milliseconds, cursor. Returns the next cursor.
-- A script, because redis-py drops the cursor of XAUTOCLAIM with JUSTID; without JUSTID it would raise delivery counts.
return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'JUSTID')[1]
