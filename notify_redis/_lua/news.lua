-- What topics have got. KEYS, thirteen for each topic: stream, the inbox, followers. ARGV: retention, as for a page; the
-- follower; a limit; then the position of each topic.
-- Returns, for each topic that has got something: its number, the end of its log, "1" if that is not all, and members and
-- records, oldest first. The follower is noted among the followers again: that index may have lost it.

retain(ARGV[1], ARGV[2], ARGV[3])
local follower, limit = ARGV[4], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local horizon = max_age >= 0 and string.format('%011x', math.max(0, now - max_age)) or ''

local function is_due(box, member)
  local expires = redis.call('ZSCORE', box.expiring, member)
  if expires and tonumber(expires) <= now then return true end
  if member >= horizon then return false end
  return not (keep_unread and redis.call('ZSCORE', box.unread, member))
end

-- The members of the topic's own log after a position that are not due, oldest first: up to one more than the limit.
local function members_after(box, position)
  local active = redis.call('ZRANGEBYLEX', box.active, '(' .. position, '+')
  local dismissed = redis.call('ZRANGEBYLEX', box.dismissed, '(' .. position, '+')
  local members = {}
  for _, member in ipairs(merged(active, dismissed, #active + #dismissed)) do
    if #members > limit then return members end
    if #member == 16 and not is_due(box, member) then members[#members + 1] = member end
  end
  local fresh = newest_of(waiting(box), ALL, position) -- newer than all of these, unread, and without a time to live
  for j = #fresh, 1, -1 do
    if #members > limit then return members end
    if keep_unread or fresh[j] >= horizon then members[#members + 1] = fresh[j] end
  end
  return members
end

local news = {}
for i = 1, #KEYS / 13 do
  local k = i * 13 - 12
  local box, position = keys_of(KEYS[k], k + 1), packed(ARGV[5 + i])
  if not redis.call('ZSCORE', KEYS[k + 12], follower) then redis.call('ZADD', KEYS[k + 12], 0, follower) end
  local last = end_of(box)
  if packed(last) > position then
    local members, rows = members_after(box, position), {}
    local more = #members > limit and '1' or ''
    members[limit + 1] = nil
    in_parts(members, function(part)
      for j, record in ipairs(redis.call('HMGET', box.records, unpack(part))) do
        rows[#rows + 1], rows[#rows + 2] = part[j], record
      end
    end)
    news[#news + 1] = {i, last, more, rows}
  end
end
return news
