-- ARGV: entry. A script, so that it works under maxmemory: if it were refused, the entry would never be written and no
-- memory would be freed.
redis.call('HDEL', alone, '')  -- a first write that needs no memory
return redis.call('HINCRBY', alone, ARGV[1], 1)
