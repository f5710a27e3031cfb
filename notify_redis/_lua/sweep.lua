-- Removes due items of one inbox, and notes in the index when the next may be due. KEYS: stream, the inbox. ARGV:
-- retention, as for a page; how many. Returns how many.

retain(ARGV[1], ARGV[2], ARGV[3])
local box = open(KEYS[1], 2)
local time = redis.call('TIME')
local removed = purge(box, time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[4]))
reschedule(box)
return removed
