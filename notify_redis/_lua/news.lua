-- What topics have got. KEYS, twelve for each topic: stream, the inbox, followers. ARGV: retention, as for a page; the
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

local news = {}
for i = 1, #KEYS / 12 do
  local k = i * 12 - 11
  local box, position = open(KEYS[k], k + 1), packed(ARGV[5 + i])
  redis.call('ZADD', KEYS[k + 11], 0, follower)
  local last = end_of(box)
  if packed(last) > position then
    local rows, more = {}, ''
    local active = redis.call('ZRANGEBYLEX', box.active, '(' .. position, '+')
    local dismissed = redis.call('ZRANGEBYLEX', box.dismissed, '(' .. position, '+')
    for _, member in ipairs(merged(active, dismissed, #active + #dismissed)) do
      if #member == 16 and not is_due(box, member) then
        if #rows >= 2 * limit then
          more = '1'
          break
        end
        rows[#rows + 1] = member
        rows[#rows + 1] = redis.call('HGET', box.records, member)
      end
    end
    news[#news + 1] = {i, last, more, rows}
  end
end
return news
