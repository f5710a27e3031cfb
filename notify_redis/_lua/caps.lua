-- Asks and counts for frequency caps. KEYS: the index of the user's keys, by when each expires; the verdict about a
-- notification; then for each window a sorted set of the notifications that it counts, by when each leaves it. ARGV: "check", "record" or "refund", the notification, the
-- present time, by how much longer keys are kept; then for each window its limit, and when this notification leaves it.
local mode, id, now, slack = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local index = table.remove(KEYS, 1)
local kept = redis.call('GET', KEYS[1])
if mode == 'refund' then
  redis.call('DEL', KEYS[1])
  for i = 2, #KEYS do
    if kept == '-1' then redis.call('ZREM', KEYS[i], id) end
  end
  return -1
end
if kept == '-1' or (kept and mode == 'check') then return tonumber(kept) end

local verdict, last = -1, 0
for i = #KEYS, 2, -1 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  local is_full = mode == 'check' and redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[2 * i + 1])
  if is_full and not redis.call('ZSCORE', KEYS[i], id) then verdict = i - 2 end
  last = math.max(last, tonumber(ARGV[2 * i + 2]))
end
local function keep(key, ends)
  local at = string.format('%.0f', ends + slack)
  redis.call('PEXPIREAT', key, at)
  redis.call('ZADD', index, at, key)
end
for i = 2, #KEYS do
  if verdict == -1 then
    redis.call('ZADD', KEYS[i], ARGV[2 * i + 2], id)
    local newest = redis.call('ZREVRANGE', KEYS[i], 0, 0, 'WITHSCORES')[2]
    keep(KEYS[i], tonumber(newest))
  end
end
redis.call('SET', KEYS[1], verdict)  -- last: a login without the right to count must not store the verdict
keep(KEYS[1], last)
redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
local newest = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
redis.call('PEXPIREAT', index, string.format('%.0f', tonumber(newest)))
return verdict
