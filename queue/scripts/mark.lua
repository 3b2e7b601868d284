-- KEYS: the stream, one of its hashes. ARGV: for each entry, its id and the value to store under it.
-- Entries that are gone get none, or nothing would ever remove it. Returns how many there were.
redis.call('HDEL', KEYS[2], '')  -- a first write that needs no memory
local marked = 0
for i = 1, #ARGV, 2 do
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) > 0 then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    marked = marked + 1
  end
end
return marked
