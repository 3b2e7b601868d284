-- ARGV: dead letter. Deletes it. Returns 1 if it was still there, else 0.
local found = redis.call('XRANGE', dead, ARGV[1], ARGV[1])
if #found == 0 then return 0 end
return forget_dead(found[1])
