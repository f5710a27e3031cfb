-- Leases of presence trackers. KEYS: the leases. ARGV: the id of a tracker or "", its time to live in milliseconds.
-- Renews the tracker's lease, removes those that have expired, and returns whether it had one, then all that have one.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local had = 0
if ARGV[1] ~= '' then
  if redis.call('ZSCORE', KEYS[1], ARGV[1]) then had = 1 end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
end
local live = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(live, 1, had)
return live
