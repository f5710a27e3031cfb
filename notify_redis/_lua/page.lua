-- Reads a page of an inbox and its counts, after copying what followed topics have got.
--
-- KEYS: stream, then the inbox. ARGV: retention (max_items, max_age or -1, "1" to keep what is unread); state, or "ids"
-- or "group"; limit; the member after which the list begins, or ""; the types, each as "length:bytes", or ""; the
-- members, written in the same way, or the group that is asked for; then for each topic its name, what the logs said of
-- it or "", what they are to say, and what is copied, a list of members, records and times.
-- Returns how many items were copied, the counts, the end of the log, the other logs, and for each item the member, its
-- record and its times. A state "all" returns up to the limit of both active and dismissed ones.

local box = keys_of(KEYS[1], 2)
retain(ARGV[1], ARGV[2], ARGV[3])
local state, limit, bound, asked = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[8]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local copies, states = {}, {}
for i = 9, #ARGV, 4 do
  if (redis.call('HGET', box.logs, ARGV[i]) or '') == ARGV[i + 1] then
    for _, text in ipairs(strings(ARGV[i + 3])) do copies[#copies + 1] = text end
    states[#states + 1], states[#states + 2] = ARGV[i], ARGV[i + 2]
  end
end
local copied = #copies / 3
if #states > 0 then
  settle_waiting(box)
  purge(box, now, MANY)
  copy_all(box, copies)
  if copied > 0 then trim(box) end
  redis.call('HSET', box.logs, unpack(states))
end

-- A read writes nothing, so it works where the server refuses writes. But what waits should not be due.
local fresh = waiting(box)
if fresh ~= '' and max_age >= 0 and not keep_unread and ms_of(fresh) < now - max_age then
  settle_waiting(box)
  fresh = ''
end

local gone, is_gone = due(box, now, ALL), {}
for _, member in ipairs(gone) do is_gone[member] = true end
local left = counts(box)
for i = 1, 3 do left[i] = left[i] + #fresh / 16 end
if #gone > 0 then
  for i, key in ipairs({box.active, box.unseen, box.unread}) do left[i] = left[i] - #filtered(key, gone, true) end
end

local types
for _, name in ipairs(strings(ARGV[7])) do
  types = types or {}
  types[name] = true
end

local function accepted(members)
  if state == 'read' then members = filtered(box.unread, members, false) end
  local found = {}
  if not types then
    for _, member in ipairs(members) do
      if not is_gone[member] then found[#found + 1] = member end
    end
    return found
  end
  in_parts(members, function(part)
    for i, record in ipairs(redis.call('HMGET', box.records, unpack(part))) do
      if types[string.match(record, '^[^\n]*\n([^\n]*)')] and not is_gone[part[i]] then found[#found + 1] = part[i] end
    end
  end)
  return found
end

local function scan(key, found)
  local from, last = bound == '' and '+' or '(' .. bound, #found + limit
  local size = (types or state == 'read' or #gone > 0) and math.max(limit, 100) or limit
  while #found < last do
    local some = redis.call('ZREVRANGEBYLEX', key, from, '-', 'LIMIT', 0, size)
    for _, member in ipairs(accepted(some)) do
      if #found < last then found[#found + 1] = member end
    end
    if #some < size then break end
    from = '(' .. some[#some]
  end
end

local function scan_fresh(found)
  local some = {}
  for _, member in ipairs(newest_of(fresh, (types or bound ~= '') and ALL or limit)) do
    if bound == '' or before(member, bound) then some[#some + 1] = member end
  end
  for _, member in ipairs(accepted(some)) do found[#found + 1] = member end
end

local found = {}
local logs = redis.call('HGETALL', box.logs)
if limit > 0 then
  if state == 'ids' then
    found = strings(asked)
  elseif state == 'group' then
    local fields = {'\n' .. asked}
    for i = 1, #logs, 2 do fields[#fields + 1] = logs[i] .. '\n' .. asked end
    for _, member in ipairs(redis.call('HMGET', box.groups, unpack(fields))) do
      if member then found[#found + 1] = member end
    end
  else
    if state ~= 'read' and state ~= 'dismissed' then scan_fresh(found) end
    if state == 'unread' then
      scan(box.unread, found)
    elseif state ~= 'dismissed' then
      scan(box.active, found)
    end
    if state == 'dismissed' or state == 'all' then scan(box.dismissed, found) end
  end
end

local rows = {}
in_parts(found, function(part)
  local records = redis.call('HMGET', box.records, unpack(part))
  local times = redis.call('HMGET', box.times, unpack(part))
  for i, member in ipairs(part) do
    if records[i] and not is_gone[member] then
      rows[#rows + 1], rows[#rows + 2], rows[#rows + 3] = member, records[i], times[i] or ''
    end
  end
end)
return {copied, left, end_of(box), logs, rows}
