-- ARGV: group, entries as a JSON array of [entry, request id, outcome, counted]. Returns how many were still there.
local given, ids = cjson.decode(ARGV[2]), {}
for number, told in ipairs(given) do ids[number] = told[1] end

local entries, seen, fields_of = {}, {}, reader(ids)
for number, told in ipairs(given) do
  local entry, id, outcome, counted = unpack(told)
  if not seen[entry] then
    seen[entry] = true
    local fields = fields_of(number)
    if not fields or are_those_of(fields, id, counted) then
      entries[#entries + 1] = {entry, fields and marker_of(request_of(fields)), outcome, counted}
    end
  end
end
return forget(ARGV[1], entries)
