local LONGEST_ID, LONGEST_REPLY = 512, 8192  -- bytes; a foreign entry may have longer ones, but no marker is large

-- Several callers may wait for one request id, each for its own entry or dead letter. So the field of `live` and of
-- `dead_ids` that names a request has its caller, too: the workflow and attempt in the reply, or else the reply itself.
local function marker_of(id, reply)
  local caller = #reply <= LONGEST_REPLY and reply or ''
  local readable, address = pcall(cjson.decode, caller)
  if readable and type(address) == 'table' then
    local workflow, attempt = address.workflow_id, address.attempt
    if type(workflow) == 'string' and type(attempt) == 'string' then caller = workflow .. ' ' .. attempt end
  end
  return #id .. ' ' .. id .. ' ' .. caller
end

-- The id and the reply in the fields of an entry or a dead letter; both may be ''.
local function request_of(fields)
  local id, reply = '', ''
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then id = fields[i + 1]
    elseif fields[i] == 'reply' then reply = fields[i + 1] end
  end
  return id, reply
end

-- Has the marker of a request name this entry or dead letter. Nobody asks for one without an id, or with a long one.
local function mark(key, fields, named)
  local id, reply = request_of(fields)
  if id ~= '' and #id <= LONGEST_ID then redis.call('HSET', key, marker_of(id, reply), named) end
end

-- Removes the marker of a request, but only if it names this entry or dead letter.
local function unmark(key, fields, named)
  local marker = marker_of(request_of(fields))
  if redis.call('HGET', key, marker) == named then redis.call('HDEL', key, marker) end
end
