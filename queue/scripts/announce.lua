-- KEYS: the contract. ARGV: worker, its terms as JSON, its sink id, milliseconds after which a silent worker is gone.
-- Returns {1, the contract}, or {0, sink id} of a worker that has another sink: then nothing is announced.
--
-- A worker that is gone is forgotten by the others, but the last terms stay: the queue is known without any batcher.
local worker, terms, sink, silent_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local function announced(text)
  local readable, other = pcall(cjson.decode, text)
  return readable and type(other) == 'table' and type(other.terms) == 'table' and type(other.terms.sink_id) == 'string'
    and type(other.started_ms) == 'number' and type(other.seen_ms) == 'number' and other
end

local started_ms, latest_ms, gone = nil, now_ms, {}
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  local other = announced(stored[i + 1])
  if other and other.terms.sink_id ~= sink then return {0, other.terms.sink_id} end
  -- Later than all others, also in the same millisecond and when the clock is set back.
  if other then latest_ms = math.max(latest_ms, other.started_ms + 1) end
  if string.sub(stored[i], 1, 4) == 'set:' then
    -- an operator's, not a worker's
  elseif other and stored[i] == worker then
    started_ms = other.started_ms
  elseif not other or now_ms - other.seen_ms > silent_ms then
    gone[#gone + 1] = stored[i]
  end
end
redis.call('HDEL', KEYS[1], '', unpack(gone))  -- a first write that needs no memory, whether one is gone or not
redis.call('HSET', KEYS[1], worker, string.format(
  '{"version":1,"started_ms":%s,"seen_ms":%s,"terms":%s}', text_of(started_ms or latest_ms), text_of(now_ms), terms))
return {1, redis.call('HGETALL', KEYS[1])}
