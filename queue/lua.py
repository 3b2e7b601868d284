"""The Lua scripts of one partition: what must happen in one step, on any Redis from 6.2 on.

All take KEYS stream, live, dead, counters, alone. Not MULTI: Redis 6.2 and 7.0 refuse it under maxmemory, and then the
stream could never drain. Under maxmemory a script may add once it has made a first write that needs no memory.
"""

_KEYS = """
local stream, live, dead, counters, alone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
"""

# ARGV: id, reply, max_backlog, then the entry's fields and values.
# A request id that is live AND whose entry still exists is not appended again: an outage would multiply the backlog.
# The entry is looked up because Redis may have lost it while the marker survived, and because it may be the request of
# an earlier attempt of the same workflow, whose answer does not bind this one.
APPEND = (
    _KEYS
    + """
local id, reply, max_backlog = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = redis.call('HGET', live, id)
local found = known and redis.call('XRANGE', stream, known, known) or {}
if #found > 0 then
  local fields = found[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'reply' and fields[i + 1] == reply then return {0, known} end
  end
end
local backlog = redis.call('XLEN', stream)
if backlog >= max_backlog then return {-1, tostring(backlog)} end
local entry = redis.call('XADD', stream, '*', 'counted', '1', unpack(ARGV, 4))
redis.call('HSET', live, id, entry)
redis.call('HINCRBY', counters, 'appended', 1)
return {1, entry}
"""
)

# The marker goes only when it names this entry; when the stream is empty every marker is stale. An entry that was
# added without the script above is counted as appended here, so that the counters add up.
_FORGET = (
    _KEYS
    + """
local function forget(group, entry, id, outcome, counted)
  redis.call('XACK', stream, group, entry)
  local deleted = redis.call('XDEL', stream, entry)
  if deleted == 1 and outcome ~= '' then
    redis.call('HINCRBY', counters, outcome, 1)
    if counted == '' then redis.call('HINCRBY', counters, 'appended', 1) end
  end
  redis.call('HDEL', alone, entry)
  if id ~= '' and redis.call('HGET', live, id) == entry then redis.call('HDEL', live, id) end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', live, alone) end
  return deleted
end
"""
)

# ARGV: group, then entry, id, outcome, counted of each entry. Returns how many entries were still there.
ACKNOWLEDGE = (
    _FORGET
    + """
local deleted = 0
for i = 2, #ARGV, 4 do
  deleted = deleted + forget(ARGV[1], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return deleted
"""
)

# ARGV: group, entry, id, outcome, counted, reason. Lua unpacks no more than 8,000 values.
DEAD_LETTER = (
    _FORGET
    + """
local found = redis.call('XRANGE', stream, ARGV[2], ARGV[2])
if #found > 0 then
  local fields = found[1][2]
  redis.call('HDEL', live, '')  -- the first write, which needs no memory
  local kept = math.min(#fields, 7000)
  redis.call('XADD', dead, '*', 'dead-reason', ARGV[6], 'dead-entry', ARGV[2], unpack(fields, 1, kept))
end
return forget(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""
)

# ARGV: entry. A script, so that it can be noted under maxmemory: refused, what is written alone would never be written,
# and no memory would come free.
BEGIN_ALONE = (
    _KEYS
    + """
redis.call('HDEL', alone, '')  -- the first write, which needs no memory
return redis.call('HINCRBY', alone, ARGV[1], 1)
"""
)

# ARGV: dead letter. Puts it back under its own id; `first` keeps the time of its first append. Returns the new entry's
# id, or nothing when the dead letter is gone.
REPLAY = (
    _KEYS
    + """
local found = redis.call('XRANGE', dead, ARGV[1], ARGV[1])
if #found == 0 then return false end
local fields = found[1][2]
local entry = {}
local id, first = '', string.match(fields[4], '%d+')
for i = 5, #fields, 2 do
  if fields[i] == 'first' then first = fields[i + 1]
  elseif fields[i] ~= 'counted' then
    if fields[i] == 'id' then id = fields[i + 1] end
    entry[#entry + 1] = fields[i]
    entry[#entry + 1] = fields[i + 1]
  end
end
local added = redis.call('XADD', stream, '*', 'counted', '1', 'first', first, unpack(entry))
redis.call('HINCRBY', counters, 'appended', 1)
if id ~= '' then redis.call('HSET', live, id, added) end
redis.call('XDEL', dead, ARGV[1])
return added
"""
)

# ARGV: group, consumer, idle milliseconds, cursor. Returns the next cursor. A script, because redis-py drops the cursor
# of XAUTOCLAIM with JUSTID, and without JUSTID delivery counts would rise.
CLAIM_FOREIGN = """
return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'JUSTID')[1]
"""

# KEYS: the stream. In a cluster the command TIME asks any server; a script asks the one whose clock stamps the entries.
NOW = """
return redis.call('TIME')
"""
