-- Removes due items of one inbox, and notes in the index when the next may be due. KEYS: stream, the inbox. ARGV:
-- retention, as for a page; how many. Returns how many.

retain(ARGV[1], ARGV[2], ARGV[3])
local box = open(KEYS[1], 2)
local time = redis.call('TIME')
local removed = purge(box, time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[4]))

local soonest = tonumber(redis.call('ZRANGE', box.expiring, 0, 0, 'WITHSCORES')[2])
if max_age >= 0 then
  local active = keep_unread and oldest_read(box, '+', 1) or redis.call('ZRANGE', box.active, 0, 0)
  for _, member in ipairs(merged(active, redis.call('ZRANGE', box.dismissed, 0, 0), 1)) do
    soonest = math.min(soonest or LAST_MS, ms_of(member) + max_age + 1)
  end
end
redis.call('ZREM', box.index, box.stream)
if soonest then schedule(box, soonest) end
return removed
