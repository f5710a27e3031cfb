-- Applies changes, and items that are more than an append. After inbox.lua; both together are one function in front of
-- effect.lua, so that a call with plain items alone makes none of their functions.

local MAX_LOGS, MAX_IDS = 99, 1000
local MARKS = {seen = true, read = true, unread = true, dismissed = true, restored = true}
-- Where the times of an item have that of a mark.
local FIELDS = {seen = '^(%d+),', read = '^%d*,(%d+),', dismissed = ',(%d+)$'}

-- The other logs of an inbox, with what _inbox_keys.py says of them.
local function other_logs(box)
  local found, all, count = {}, redis.call('HGETALL', box.logs), 0
  for i = 1, #all, 2 do
    local kind, since, position, name, order, last =
      string.match(all[i + 1], '^(%a) (%S+) (%S+) (%S+) (%S+) ?(%S*)$')
    found[all[i]] = {
      kind = kind, since = since, position = position, name = name, order = order, last = last, text = all[i + 1],
    }
    count = count + 1
  end
  return found, count, all
end

-- For each log, up to which member a mark reaches.
local function bounds_of(box, up_to, own)
  local number, log = string.match(up_to, '^([%d-]+)@(.+)$')
  if number then return {[log] = packed(number)} end
  local bounds = {}
  if own ~= '' then bounds[''] = packed(own) end
  if string.sub(up_to, 1, 3) == 'm1.' then
    local named = {}
    for name, id in string.gmatch(string.sub(up_to, 4), '([^.]+)%.t?([^.]+)') do named[name] = id end
    for other, entry in pairs(other_logs(box)) do
      if named[entry.name] then bounds[other] = packed(named[entry.name]) end
    end
  end
  return bounds
end

-- The sets in which a mark looks for items.
local function sets_of(box, kind)
  if kind == 'seen' then return {box.unseen} end
  if kind == 'read' then return {box.unread} end
  if kind == 'dismissed' then return {box.active} end
  if kind == 'restored' then return {box.dismissed} end
  return {box.active, box.dismissed}
end

local function up_to(sets, bounds)
  local last, found = '', {}
  for _, bound in pairs(bounds) do
    if bound > last then last = bound end
  end
  if last == '' then return found end
  for _, key in ipairs(sets) do
    for _, member in ipairs(redis.call('ZRANGEBYLEX', key, '-', '[' .. last .. '\255')) do
      local bound = bounds[string.sub(member, 17)]
      if bound and string.sub(member, 1, 16) <= bound then found[#found + 1] = member end
    end
  end
  return found
end

-- The members that the payload of a mark names and that are in these sets.
local function named(box, kind, payload, own, sets)
  if type(payload.ids) == 'table' then
    local asked, known, found = {}, {}, {}
    for _, id in ipairs(payload.ids) do
      local member = member_of(id)
      if member and not known[member] then
        known[member] = true
        asked[#asked + 1] = member
      end
    end
    for _, key in ipairs(sets) do
      for _, member in ipairs(filtered(key, asked, true)) do found[#found + 1] = member end
    end
    return found
  end
  if type(payload.up_to) == 'string' then return up_to(sets, bounds_of(box, payload.up_to, own)) end
  if type(payload.group) ~= 'string' then return {} end
  local fields, found = {'\n' .. payload.group}, {}
  for log in pairs(other_logs(box)) do fields[#fields + 1] = log .. '\n' .. payload.group end
  for _, member in ipairs(redis.call('HMGET', box.groups, unpack(fields))) do
    if member then found[#found + 1] = member end
  end
  return filtered(kind == 'unread' and box.active or sets[1], found, true)
end

-- The members whose state a mark changes.
local function hits(box, kind, payload, own)
  local found = named(box, kind, payload, own, sets_of(box, kind))
  return kind == 'unread' and filtered(box.unread, found, false) or found
end

-- Gives items a state, at the time of the event.
local function mark(box, kind, members, moment_ms, now)
  local moment = string.format('%.0f', moment_ms)
  in_parts(members, function(part)
    local fields = {}
    for i, times in ipairs(redis.call('HMGET', box.times, unpack(part))) do
      local seen, read, dismissed = string.match(times or ',,', '^(%d*),(%d*),(%d*)$')
      if kind == 'unread' or kind == 'restored' then
        dismissed = ''
        if kind == 'unread' then read = '' end
      else
        if seen == '' then seen = moment end
        if kind ~= 'seen' and read == '' then read = moment end
        if kind == 'dismissed' then dismissed = moment end
      end
      fields[2 * i - 1], fields[2 * i] = part[i], seen .. ',' .. read .. ',' .. dismissed
    end
    redis.call('HSET', box.times, unpack(fields))
    if kind == 'seen' or kind == 'read' or kind == 'dismissed' then redis.call('ZREM', box.unseen, unpack(part)) end
    if kind == 'read' or kind == 'dismissed' then redis.call('ZREM', box.unread, unpack(part)) end
    if kind == 'dismissed' then
      redis.call('ZREM', box.active, unpack(part))
      zadd(box.dismissed, part)
    elseif kind == 'unread' or kind == 'restored' then
      redis.call('ZREM', box.dismissed, unpack(part))
      zadd(box.active, part)
      if kind == 'unread' then zadd(box.unread, part) end
    end
  end)
  if keep_unread and max_age >= 0 then
    for _, member in ipairs(members) do schedule(box.index, box.stream, ms_of(member) + max_age + 1) end
    purge_all(box, now)
  end
end

local function state_of(log, position, last)
  return table.concat({log.kind, log.since, position, log.name, log.order, last}, ' ')
end

-- Notes that a session is to be merged up to a position.
local function merge_later(box, session, last, name, known)
  return function(id)
    local log = known or {kind = 'm', since = '0', position = '0', name = name, order = packed(id), last = '0'}
    redis.call('HSET', box.logs, session, state_of(log, log.position, later(later(log.position, log.last), last)))
  end
end

-- What a change of the other logs does: a function of the id, nil if it does nothing, or a word (see above).
local function other_change(box, kind, user, payload, extra, is_checked, now)
  local logs, count = other_logs(box)
  local topic = payload.topic
  if kind == 'unfollowed' then
    if type(topic) ~= 'string' or not logs[topic] or logs[topic].kind ~= 'f' then return nil end
    return function()
      redis.call('HDEL', box.logs, topic)
      remove(box, of_log(box, topic))
    end
  end
  if kind == 'followed' then
    local since = payload.since
    if type(topic) ~= 'string' or type(since) ~= 'string' or topic == user or logs[topic] then return nil end
    if since ~= '0' and not string.match(since, '^%d+%-%d+$') then return nil end
    if is_checked and count >= MAX_LOGS then return 'room' end
    return function(id)
      redis.call('HSET', box.logs, topic, table.concat({'f', since, since, extra, packed(id)}, ' '))
    end
  end
  local session, last = payload.session, payload['until']
  if type(session) ~= 'string' or type(last) ~= 'string' or session == user then return nil end
  if last ~= '0' and not string.match(last, '^%d+%-%d+$') then return nil end
  if not is_checked then return merge_later(box, session, last, extra, logs[session]) end
  local list = strings(extra) -- name of the session, its position as read, topics, then a field and text of each; rows
  local known = logs[session]
  if (known and known.text or '') ~= list[2] then return 'again' end
  if packed(last) <= packed(known and known.position or '0') then return nil end
  local topics, at = {}, 4
  for _ = 1, tonumber(list[3]) do
    if not logs[list[at]] then topics[list[at]] = list[at + 1] end
    at = at + 2
  end
  for _ in pairs(topics) do count = count + 1 end
  if is_checked and count + (known and 0 or 1) > MAX_LOGS then return 'room' end
  return function(id)
    known = known or {kind = 'm', since = '0', name = list[1], order = packed(id)}
    redis.call('HSET', box.logs, session, state_of(known, last))
    for name, entry in pairs(topics) do redis.call('HSET', box.logs, name, entry .. packed(id)) end
    for i = at, #list, 3 do
      local log = string.sub(list[i], 17)
      if log == session or topics[log] then copy(box, list[i], list[i + 1], list[i + 2]) end
    end
    trim(box)
    purge_all(box, now)
  end
end

local function newest(members)
  if #members <= MAX_IDS then return members end
  table.sort(members, before)
  return {unpack(members, #members - MAX_IDS + 1, #members)}
end

local function answer(box, place, members)
  return {place, counts(box), end_of(box), redis.call('HGETALL', box.logs), newest(members or {})}
end

-- See effect.lua.
local function prepare(box, record, mode, extra, now)
  local user, name, data =
    string.match(record, '^1([^\n]*)\n([^\n]*)\n[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n(.*)$')
  local kind = string.match(name, '^notify%.(%a+)$')
  if mode == 'c' then
    local logs, _, all = other_logs(box)
    for _, entry in pairs(logs) do
      if entry.kind == 'f' or entry.last ~= '' then return {result = {'pull', all}} end
    end
  end
  purge_all(box, now)
  local ok, payload = pcall(cjson.decode, data)
  if not ok or type(payload) ~= 'table' then payload = {} end
  local members, others = {}, nil
  if MARKS[kind] then
    members = hits(box, kind, payload, extra)
  else
    others = other_change(box, kind, user, payload, extra, mode ~= 's', now)
    if type(others) == 'string' then return {result = {others}} end
  end
  if mode ~= 's' and not others and #members == 0 then return {result = answer(box, ''), is_final = true} end
  return {
    apply = function(id)
      if #members > 0 then mark(box, kind, members, ms(id), now) end
      if others then others(id) end
      redis.call('HSET', box.records, '', id)
    end,
    report = mode ~= 's' and function(place) return answer(box, place, members) end,
  }
end

-- The result for a change that an earlier attempt has applied: the items that it may have changed are those that are now
-- as it leaves them, since that moment (or another change of the same millisecond).
local function report(box, record, extra, place, now)
  purge_all(box, now)
  local name, data = string.match(record, '^[^\n]*\n([^\n]*)\n[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n(.*)$')
  local kind, found = string.match(name, '^notify%.(%a+)$'), {}
  if MARKS[kind] and place ~= '' then
    local id, field = string.match(place, '^%S+'), FIELDS[kind]
    local sets = {kind == 'unread' and box.unread or box.active}
    if field then sets = {box.active, box.dismissed} end
    for _, member in ipairs(named(box, kind, cjson.decode(data), extra, sets)) do
      local moment = string.format('%.0f', ms(id))
      if not field or string.match(redis.call('HGET', box.times, member) or ',,', field) == moment then
        found[#found + 1] = member
      end
    end
  end
  return answer(box, string.match(place, '^%S+ %S+') or '', found)
end

-- Inserts a new item. Due ones, and the new one if it is due already, are removed before others have to go for it.
local function insert(box, member, record, extra, may_be_due, now)
  local expires, group = string.match(extra, '^(%d*)\n?(.*)$')
  expires = tonumber(expires)
  may_be_due = may_be_due or expires and expires <= now
  add(box, member, record, group ~= '' and '\n' .. group or nil, expires)
  if may_be_due then purge(box, now, MANY) end
  trim(box)
  if may_be_due then reschedule(box) end
end

return {open = open, prepare = prepare, report = report, insert = insert}
