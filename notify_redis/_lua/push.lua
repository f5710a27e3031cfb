-- Appends events to the streams of their users and announces them: several events of one master in one call.
--
-- KEYS, four for each event: stream, users of the partition, retries of the partition, idempotency key (or the stream).
-- ARGV: deadline, max_len, "~" or "=", ttl, age, key window, inline limit; publish command or "", what ends the name of a
--   channel, wake stream, its counter, its time to live, its bound in bytes, "1" to create it; since; then for each event
--   nonce, "1" if it has an idempotency key, body. Times are milliseconds by the clock of this server.
-- Returns the time, then for each event "id prev" if it was appended, "id prev body" if that was done before (body only
--   while it is retained), "!reason" if it was not, "?reason" if it may have been. The time alone: the deadline had
--   passed, and nothing was done. The last element is one more if publishing is refused: why, or "" if the wake stream
--   carries the announcements.
--
-- An announcement is "id prev nonce body", without the body where that is over the inline limit.
--
-- plain.lua or effect.lua is in front of it: the latter adds keys and arguments, and applies events to inboxes.
--
-- Why a script and not MULTI: prev has to be read and written in one step. Why not XADD with an id from the client: two
-- processes would need a lock. Why few events in a call: while a script runs, the server does nothing else.
--
-- Attempts of one push find each other, in any order that the server executes them. An attempt after an unknown outcome
-- ("since" is set) searches the stream for its nonce and stores the nonce in the retries, where a late first attempt
-- looks it up. So a first attempt, which is nearly every one, searches nothing.

local deadline, max_len, trim, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local age, window, inline = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local publish, suffix, since = ARGV[8], ARGV[9], ARGV[15]
local HOUR = 3600000
local appended, unannounced
local wakes = {}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > deadline then return {now} end

-- The result for an event that was appended before.
local function known(stream, place)
  local entry = redis.call('XRANGE', stream, string.match(place, '^%S+'), '+', 'COUNT', 1)[1]
  if entry and entry[1] == string.match(place, '^%S+') then return place .. ' ' .. entry[2][6] end
  return place
end

-- Where an earlier attempt appended the event; false: nowhere; nil: unknown, since that part of the log was trimmed.
local function find(stream, nonce)
  local start = math.min(tonumber(since), now - 10000)
  local entries = redis.call('XRANGE', stream, string.format('%.0f', start), '+')
  for i = 1, #entries do
    if entries[i][2][4] == nonce then return entries[i][1] .. ' ' .. entries[i][2][2] end
  end
  local first = entries[1] and entries[1][2][2] or head(stream)
  if first ~= '0' and ms(first) >= tonumber(since) then
    local before = redis.call('XRANGE', stream, first, first)
    if #before == 0 then return nil end
  end
  return false
end

-- The id of the next event: after the last one, and after what an inbox has seen of the log, which may have been lost
-- since. Its sequence number has 20 bits, as items need.
local function following(prev, floor)
  local last, sequence = 0, 0
  for _, id in ipairs({prev, floor}) do
    local x, y = string.match(id, '^(%d+)%-(%d+)$')
    x, y = tonumber(x or 0), tonumber(y or 0)
    if x > last or x == last and y > sequence then
      last, sequence = x, y
    end
  end
  if now > last then return '*' end
  if sequence >= 1048575 then return string.format('%.0f-0', last + 1) end
  return string.format('%.0f-%.0f', last, sequence + 1)
end

-- Tells later attempts what this one did.
local function settle(retries, nonce, place)
  redis.call('HSET', retries, nonce, place)
  redis.call('PEXPIRE', retries, 60000)
end

local function push(k, a)
  local stream, index, retries, idem = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local nonce, keyed, body = ARGV[a], ARGV[a + 1] == '1', ARGV[a + 2]
  if keyed then
    local place = redis.call('GET', idem)
    if place then return known(stream, place) end
  end
  local place = redis.call('HGET', retries, nonce)
  if place then return place end
  if since ~= '' then
    place = find(stream, nonce)
    if place == nil then return '?the log was trimmed past an earlier attempt' end
  end
  local fresh, effect = not place, nil
  if fresh then
    local prev, id = head(stream), '*'
    if prepare then
      effect = prepare(k, a, now)
      if effect and effect.result then
        if since ~= '' and effect.is_final then settle(retries, nonce, '') end
        return effect.result
      end
    end
    if prev == '0' then
      id = following(prev, redis.call('HGET', stream .. ':ib', '') or '0')
    elseif effect and ms(prev) >= now then -- the clock is behind: XADD's own id could exceed the bits of a member
      id = following(prev, '0')
    end
    id = redis.pcall('XADD', stream, 'MAXLEN', trim, max_len, id, 'p', prev, 'n', nonce, 'e', body)
    if type(id) == 'table' then return '!' .. id.err end
    appended = true
    if effect then effect.apply(id, k, a, now) end
    place = id .. ' ' .. prev
    if math.floor(ms(prev) / HOUR) ~= math.floor(now / HOUR) then
      if ttl > 0 then
        redis.call('PEXPIRE', stream, ttl + HOUR)
        redis.call('ZADD', index, now, stream)
        redis.call('ZREMRANGEBYSCORE', index, '-inf', now - ttl - 2 * HOUR)
        redis.call('PEXPIRE', index, ttl + 3 * HOUR)
      else
        redis.call('ZADD', index, now, stream)
      end
      if age > 0 then redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f', now - age)) end
    end
    if keyed then
      local keys = stream .. ':k'
      redis.call('SET', idem, place, 'PX', window)
      redis.call('ZREMRANGEBYSCORE', keys, '-inf', now)
      redis.call('ZADD', keys, now + tonumber(window), string.sub(idem, #keys + 2))
      redis.call('PEXPIRE', keys, window)
    end
  end
  if since ~= '' then settle(retries, nonce, place) end
  if fresh then
    local message = place .. ' ' .. nonce
    if #body <= inline then message = message .. ' ' .. body end
    local channel = stream .. suffix
    wakes[#wakes + 1] = channel
    wakes[#wakes + 1] = message
    if publish ~= '' then
      local sent = redis.pcall(publish, channel, message)
      if type(sent) == 'table' then unannounced = sent.err end
    end
  end
  return effect and effect.report and effect.report(place) or place
end

local results = {now}
for i = 1, #KEYS / KEYS_OF_EACH do
  local k, a = (i - 1) * KEYS_OF_EACH + 1, (i - 1) * ARGUMENTS_OF_EACH + FIRST
  appended = false
  local ok, result = pcall(push, k, a)
  if ok and report and type(result) == 'string' and not string.find(result, '^[!?]') then ok, result = pcall(report, k, a, result, now) end
  if not ok then
    result = (appended and '?' or '!') .. (type(result) == 'table' and result.err or tostring(result))
  end
  results[i + 1] = result
end
if #wakes > 0 then
  local ok, carried = pcall(wake, ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14] == '1', wakes)
  results[#results + 1] = unannounced and (ok and carried and '' or unannounced)
end
return results
