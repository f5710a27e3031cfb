-- Erases a user. KEYS: stream, users of the partition, presence, index of idempotency keys, the inbox (its last
-- key is the index of inboxes), followers. ARGV: "1" to erase now.
--
-- Returns the number of events. Returns nothing, and does nothing, in the millisecond of the last event: a new log
-- begins with the time, so an id that was given could be given again.

local stream, keys = KEYS[1], KEYS[4]
local time = redis.call('TIME')
if ARGV[1] == '' and ms(head(stream)) == time[1] * 1000 + math.floor(time[2] / 1000) then return nil end

local count = redis.call('XLEN', stream)
for _, key in ipairs(redis.call('ZRANGE', keys, 0, -1)) do redis.call('UNLINK', keys .. ':' .. key) end
redis.call('UNLINK', stream, KEYS[3], keys)
redis.call('UNLINK', unpack(KEYS, 5, 14))
redis.call('UNLINK', KEYS[16])
redis.call('ZREM', KEYS[2], stream)
redis.call('ZREM', KEYS[15], stream)
return count
