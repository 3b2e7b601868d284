-- ARGV: group, entries as a JSON array of [entry, request id, outcome, counted]. Returns how many were still there.
local entries, seen, fields_of = {}, {}, reader()
for _, held_entry in ipairs(cjson.decode(ARGV[2])) do
  local entry, id, outcome, counted = unpack(held_entry)
  local fields = not seen[entry] and fields_of(entry)
  if not seen[entry] and not (fields and not are_those_of(fields, id, counted)) then
    entries[#entries + 1] = {entry, fields and marker_of(request_of(fields)), outcome, counted}
  end
  seen[entry] = true
end
return forget(ARGV[1], entries)
