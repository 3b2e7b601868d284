-- ARGV: request id, reply. Returns the latest entry in the stream of that request and its caller, or none.
local entry = redis.call('HGET', live, marker_of(ARGV[1], ARGV[2]))
return entry and redis.call('XRANGE', stream, entry, entry) or {}
