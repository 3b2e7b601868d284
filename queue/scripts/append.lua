-- ARGV: max_backlog, unless_dead ('1' or ''), then for each request: request id, reply, number of values that follow, the
-- entry's fields and values.
-- Returns for each request: {1, entry}: appended; {0, entry}: queued already; {-1, backlog}: the stream is full;
-- {2, letter}: the request is a dead letter, and unless_dead is set.
--
-- A request that is still queued is not appended again: during an outage, resubmissions would multiply the backlog. The
-- marker in `live` is not enough: Redis may have lost the entry and kept the marker, or the receipt for the entry may go
-- to another run or another activity of the caller.
local max_backlog, unless_dead = tonumber(ARGV[1]), ARGV[2] == '1'

local function holds(key, entry, id, reply)
  local found = entry and redis.call('XRANGE', key, entry, entry) or {}
  if #found == 0 then return false end
  local its_id, its_reply = request_of(found[1][2])
  return its_id == id and its_reply == reply
end

local function append(id, reply, first, last)
  local marker = marker_of(id, reply)
  local known = redis.call('HGET', live, marker)
  if holds(stream, known, id, reply) then return {0, known} end
  if unless_dead then
    local letter = redis.call('HGET', dead_ids, marker)
    if holds(dead, letter, id, reply) then return {2, letter} end
  end
  local backlog = redis.call('XLEN', stream)
  if backlog >= max_backlog then return {-1, tostring(backlog)} end
  -- The time again, because the id need not tell it: after an id from the future, ids go on from there.
  local entry = redis.call('XADD', stream, '*', 'counted', text_of(now_ms), unpack(ARGV, first, last))
  redis.call('HSET', live, marker, entry)
  redis.call('HINCRBY', counters, 'appended', 1)
  return {1, entry}
end

local answers, i = {}, 3
while i <= #ARGV do
  local last = i + 2 + tonumber(ARGV[i + 2])
  answers[#answers + 1] = append(ARGV[i], ARGV[i + 1], i + 3, last)
  i = last + 1
end
return answers
