-- ARGV: entry. A script, so that it can be noted under maxmemory: refused, what is written alone would never be written,
-- and no memory would come free.
redis.call('HDEL', alone, '')  -- the first write, which needs no memory
return redis.call('HINCRBY', alone, ARGV[1], 1)
