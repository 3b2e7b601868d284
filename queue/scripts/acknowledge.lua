-- ARGV: group, entries as a JSON array of [entry, request id, outcome, counted]. Returns how many were still there.
local given, ids = cjson.decode(ARGV[2]), {}
for number, held_entry in ipairs(given) do ids[number] = held_entry[1] end

local entries, seen, fields_of = {}, {}, reader(ids)
for number, held_entry in ipairs(given) do
  local entry, id, outcome, counted = unpack(held_entry)
  local fields = not seen[entry] and fields_of(number)
  if not seen[entry] and not (fields and not are_those_of(fields, id, counted)) then
    entries[#entries + 1] = {entry, fields and marker_of(request_of(fields)), outcome, counted}
  end
  seen[entry] = true
end
return forget(ARGV[1], entries)
