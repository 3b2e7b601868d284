-- KEYS: the contract. ARGV: worker. Takes back what the worker announced. Of the last one the terms stay, so that the queue
-- is known while no batcher runs; that it lives is taken back.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then return end
redis.call('HDEL', KEYS[1], ARGV[1])  -- a first write that needs no memory
local others = false
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  others = others or string.sub(field, 1, 4) ~= 'set:'
end
if not others then
  redis.call('HSET', KEYS[1], ARGV[1], (string.gsub(stored, '"seen_ms":%d+', '"seen_ms":0', 1)))
end
