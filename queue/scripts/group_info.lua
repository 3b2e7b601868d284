-- What XINFO GROUPS tells of one group of a stream, by name; nil when there is no such group.
local function group_info(key, group)
  if redis.call('EXISTS', key) == 0 then return nil end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local about = {}
    for i = 1, #info, 2 do about[info[i]] = info[i + 1] end
    if about['name'] == group then return about end
  end
end
