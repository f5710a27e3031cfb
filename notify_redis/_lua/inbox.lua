-- Put in front of the scripts that read an inbox, or remove or change items, after box.lua.

local ALL = 1000000 -- more than an inbox has
local MANY = 500 -- members handed to one command: far below what unpack() can hand over

-- The keys of one inbox, from KEYS[first] on.
local function keys_of(stream, first)
  return {
    stream = stream,
    active = KEYS[first],
    dismissed = KEYS[first + 1],
    unseen = KEYS[first + 2],
    unread = KEYS[first + 3],
    records = KEYS[first + 4],
    times = KEYS[first + 5],
    groups = KEYS[first + 6],
    expiring = KEYS[first + 7],
    waiting = KEYS[first + 8],
    logs = KEYS[first + 9],
    index = KEYS[first + 10],
  }
end

-- The strings of a list, each written as "length:bytes".
local function strings(text)
  local list, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local size = tonumber(string.sub(text, at, colon - 1))
    list[#list + 1] = string.sub(text, colon + 1, colon + size)
    at = colon + size + 1
  end
  return list
end

-- The member of an item's id, "<id>" or "<id>@<log>"; nil if the text is not one.
local function member_of(id)
  if type(id) ~= 'string' then return nil end
  local ms, sequence, log = string.match(id, '^(%d+)%-(%d+)(.*)$')
  if not ms or tonumber(ms) > 17592186044415 or tonumber(sequence) > 1048575 then return nil end
  if log ~= '' then
    log = string.match(log, '^@(.+)$')
    if not log then return nil end
  end
  return packed(ms .. '-' .. sequence) .. log
end

local function ms_of(member) return tonumber(string.sub(member, 1, 11), 16) end

-- Whether one member is before another: by id, then by the bytes of the log.
local function before(a, b)
  local x, y = string.sub(a, 1, 16), string.sub(b, 1, 16)
  if x ~= y then return x < y end
  for i = 17, math.min(#a, #b) do
    local p, q = string.byte(a, i), string.byte(b, i)
    if p ~= q then return p < q end
  end
  return #a < #b
end

local function in_parts(list, act)
  for i = 1, #list, MANY do act({unpack(list, i, math.min(i + MANY - 1, #list))}) end
end

local function zadd(key, members)
  if #members == 0 then return end
  local scored = {}
  for i = 1, #members do
    scored[2 * i - 1], scored[2 * i] = '0', members[i] -- a number would be formatted each time
  end
  redis.call('ZADD', key, unpack(scored))
end

-- The members of new items that are in no sorted set yet, one after the other.
local function waiting(box) return redis.call('GET', box.waiting) or '' end

-- These members, newest first: up to a limit, those after a member.
local function newest_of(text, limit, after)
  local members = {}
  for at = #text - 15, 1, -16 do
    local member = string.sub(text, at, at + 15)
    if #members == limit or after and member <= after then break end
    members[#members + 1] = member
  end
  return members
end

-- Moves them to the sorted sets.
local function settle_waiting(box)
  local members = newest_of(waiting(box), ALL)
  if #members == 0 then return end
  zadd(box.active, members)
  zadd(box.unseen, members)
  zadd(box.unread, members)
  redis.call('DEL', box.waiting)
end

-- The inbox whose keys begin at KEYS[first], with every item in its sorted sets.
local function open(stream, first)
  local box = keys_of(stream, first)
  settle_waiting(box)
  return box
end

-- Those of the members that are in the set, or are not.
local function filtered(key, members, wanted)
  local found = {}
  in_parts(members, function(part)
    for i, score in ipairs(redis.call('ZMSCORE', key, unpack(part))) do
      if (score ~= false) == wanted then found[#found + 1] = part[i] end
    end
  end)
  return found
end

-- The field of the groups that an item has: its log and its group; nil if it has no group.
local function group_of(member, record)
  local group = string.match(record, '^[^\n]*\n[^\n]*\n[^\n]*\n([^\n]+)')
  return group and string.sub(member, 17) .. '\n' .. group
end

-- When a record says that it expires; nil: it does not.
local function expiry_of(record)
  local meta = string.match(record, '^[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n([^\n]+)') or ''
  local ms = tonumber(string.match(meta, '"notify%.item":"(%d+)"') or '')
  return ms and ms <= LAST_MS and ms or nil
end

local function remove(box, members)
  in_parts(members, function(part)
    local groups = {}
    for i, record in ipairs(redis.call('HMGET', box.records, unpack(part))) do
      local group = record and group_of(part[i], record)
      if group then groups[#groups + 1] = group end
    end
    if #groups > 0 then redis.call('HDEL', box.groups, unpack(groups)) end
    redis.call('HDEL', box.records, unpack(part))
    redis.call('HDEL', box.times, unpack(part))
    redis.call('ZREM', box.active, unpack(part))
    redis.call('ZREM', box.dismissed, unpack(part))
    redis.call('ZREM', box.unseen, unpack(part))
    redis.call('ZREM', box.unread, unpack(part))
    redis.call('ZREM', box.expiring, unpack(part))
  end)
end

-- Inserts a new item, in place of the one of its log and group: their field in the groups, or nil.
local function add(box, member, record, group, expires)
  if group then
    local replaced = redis.call('HGET', box.groups, group)
    if replaced then remove(box, {replaced}) end
    redis.call('HSET', box.groups, group, member)
  end
  redis.call('HSET', box.records, member, record)
  redis.call('ZADD', box.active, 0, member)
  redis.call('ZADD', box.unread, 0, member)
  redis.call('ZADD', box.unseen, 0, member)
  if expires then
    redis.call('ZADD', box.expiring, expires, member)
    schedule(box.index, box.stream, expires)
  end
end

-- Inserts an item of another log, with its times as they are stored; '' for a new one.
local function copy(box, member, record, times)
  if redis.call('HEXISTS', box.records, member) == 1 then remove(box, {member}) end
  add(box, member, record, group_of(member, record), expiry_of(record))
  if max_age >= 0 then schedule(box.index, box.stream, ms_of(member) + max_age + 1) end
  local seen, read, dismissed = string.match(times, '^(%d*),(%d*),(%d*)$')
  if not seen then return end
  redis.call('HSET', box.times, member, times)
  if seen ~= '' then redis.call('ZREM', box.unseen, member) end
  if read ~= '' then redis.call('ZREM', box.unread, member) end
  if dismissed ~= '' then
    redis.call('ZREM', box.active, member)
    redis.call('ZADD', box.dismissed, 0, member)
  end
end

-- Inserts items of other logs: for each the member, the record and the times.
local function copy_all(box, rows)
  local fields, members, oldest = {}, {}, nil
  for i = 1, #rows, 3 do
    local member, record, times = rows[i], rows[i + 1], rows[i + 2]
    if times ~= '' or group_of(member, record) or expiry_of(record) then
      copy(box, member, record, times)
    else
      members[#members + 1] = member
      fields[member] = record
      oldest = math.min(oldest or LAST_MS, ms_of(member))
    end
  end
  if #members == 0 then return end
  remove(box, filtered(box.active, members, true))
  remove(box, filtered(box.dismissed, members, true))
  in_parts(members, function(part)
    local pairs_of = {}
    for i, member in ipairs(part) do pairs_of[2 * i - 1], pairs_of[2 * i] = member, fields[member] end
    redis.call('HSET', box.records, unpack(pairs_of))
    zadd(box.active, part)
    zadd(box.unseen, part)
    zadd(box.unread, part)
  end)
  if max_age >= 0 then schedule(box.index, box.stream, oldest + max_age + 1) end
end

-- The oldest members that are active and read; members[1] is the oldest.
local function oldest_read(box, bound, limit)
  local active = redis.call('ZLEXCOUNT', box.active, '-', bound)
  limit = math.min(limit, active - redis.call('ZLEXCOUNT', box.unread, '-', bound))
  if limit <= 0 then return {} end
  local from, last = 0, active -- the first `from` members are unread, not all of the first `last` are
  while last - from > MANY do
    local middle = math.floor((from + last) / 2)
    local member = redis.call('ZRANGE', box.active, middle - 1, middle - 1)[1]
    if redis.call('ZLEXCOUNT', box.unread, '-', '[' .. member) == middle then from = middle else last = middle end
  end
  local found = {}
  while #found < limit and from < active do
    for _, member in ipairs(filtered(box.unread, redis.call('ZRANGE', box.active, from, from + MANY - 1), false)) do
      if #found < limit then found[#found + 1] = member end
    end
    from = from + MANY
  end
  return found
end

-- Two sorted lists as one, up to a limit.
local function merged(a, b, limit)
  local list, i, j = {}, 1, 1
  while #list < limit and (a[i] or b[j]) do
    if a[i] and (not b[j] or before(a[i], b[j])) then
      list[#list + 1], i = a[i], i + 1
    else
      list[#list + 1], j = b[j], j + 1
    end
  end
  return list
end

-- Removes what exceeds `max_items`.
local function trim(box)
  local active = redis.call('ZCARD', box.active)
  local kept = active + redis.call('ZCARD', box.dismissed)
  local excess = kept - max_items
  if excess <= 0 then return end
  local gone = redis.call('ZRANGE', box.dismissed, 0, excess - 1)
  if not keep_unread then
    remove(box, merged(redis.call('ZRANGE', box.active, 0, excess - 1), gone, excess))
    return
  end
  if active > redis.call('ZCARD', box.unread) then gone = merged(oldest_read(box, '+', excess), gone, excess) end
  remove(box, gone)
  excess = kept - #gone - 10 * max_items
  if excess > 0 then remove(box, redis.call('ZRANGE', box.active, 0, excess - 1)) end
end

-- Members that are due, up to a limit.
local function due(box, now, limit)
  local found = redis.call('ZRANGEBYSCORE', box.expiring, '-inf', now, 'LIMIT', 0, limit)
  if max_age < 0 then return found end
  local bound = '(' .. string.format('%011x', math.max(0, now - max_age))
  local active
  if keep_unread then
    active = oldest_read(box, bound, limit)
  else
    active = redis.call('ZRANGEBYLEX', box.active, '-', bound, 'LIMIT', 0, limit)
  end
  local dismissed = redis.call('ZRANGEBYLEX', box.dismissed, '-', bound, 'LIMIT', 0, limit)
  if #active == 0 and #dismissed == 0 then return found end
  local known = {}
  for _, member in ipairs(found) do known[member] = true end
  for _, list in ipairs({active, dismissed}) do
    for _, member in ipairs(list) do
      if #found < limit and not known[member] then found[#found + 1] = member end
    end
  end
  return found
end

-- Notes in the index of the partition when the next item may be due; not at all if none ever is.
local function reschedule(box)
  local soonest = tonumber(redis.call('ZRANGE', box.expiring, 0, 0, 'WITHSCORES')[2])
  if max_age >= 0 then
    local active = keep_unread and oldest_read(box, '+', 1) or redis.call('ZRANGE', box.active, 0, 0)
    for _, member in ipairs(merged(active, redis.call('ZRANGE', box.dismissed, 0, 0), 1)) do
      soonest = math.min(soonest or LAST_MS, ms_of(member) + max_age + 1)
    end
  end
  redis.call('ZREM', box.index, box.stream)
  if soonest then schedule(box.index, box.stream, soonest) end
end

-- Removes due items, up to a limit, and returns how many.
local function purge(box, now, limit)
  local gone = due(box, now, limit)
  if #gone > 0 then remove(box, gone) end
  return #gone
end

local function purge_all(box, now)
  while purge(box, now, MANY) == MANY do end
end

-- The later of two ids.
local function later(a, b) return packed(a) < packed(b) and b or a end

-- The end of the log, as far as the inbox knows it: the stream may have been lost, or have expired.
local function end_of(box) return later(head(box.stream), redis.call('HGET', box.records, '') or '0') end

local function counts(box)
  return {redis.call('ZCARD', box.active), redis.call('ZCARD', box.unseen), redis.call('ZCARD', box.unread)}
end

-- Members of another log.
local function of_log(box, log)
  local found = {}
  for _, key in ipairs({box.active, box.dismissed}) do
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      if string.sub(member, 17) == log then found[#found + 1] = member end
    end
  end
  return found
end
