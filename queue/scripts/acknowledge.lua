-- ARGV: group, then for each entry: entry, request id, outcome, counted. Returns how many entries were still there.
local deleted = 0
for i = 2, #ARGV, 4 do
  deleted = deleted + forget(ARGV[1], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return deleted
