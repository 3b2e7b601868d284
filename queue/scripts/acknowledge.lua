-- ARGV: group, then for each entry: entry, request id, outcome, counted. Returns how many entries were still there.
local entries, seen = {}, {}
for i = 2, #ARGV, 4 do
  local fields = not seen[ARGV[i]] and fields_of(ARGV[i], ARGV[i + 1], ARGV[i + 3])
  if fields then entries[#entries + 1] = {ARGV[i], fields, ARGV[i + 2], ARGV[i + 3]} end
  seen[ARGV[i]] = true
end
return forget(ARGV[1], entries)
