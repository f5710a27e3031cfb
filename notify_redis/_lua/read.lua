-- Reads pages of several logs of one master, each consistent with its head.
--
-- KEYS: streams. ARGV: limit, age in milliseconds (0: none), "1" to leave out streams with nothing new; then for each
-- stream the position, and the same position as an exclusive start.
-- Returns the time, then for each stream {number, head, whether the head is older than the age, entries}; the head is
-- "0" where there is no stream.

local limit, age, quiet = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local horizon = age > 0 and now - age or 0

local function ms(id) return tonumber(string.match(id, '^%d+')) end

local function head(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then return last[1] end
  if redis.call('EXISTS', stream) == 0 then return '0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1] == '0-0' and '0' or info[i + 1]
    end
  end
end

local pages = {now}
for i = 1, #KEYS do
  local after, start = ARGV[2 + i * 2], ARGV[3 + i * 2]
  local entries = {}
  if limit > 0 and start ~= '' then
    if ms(after) < horizon then start = string.format('%.0f', horizon) end
    entries = redis.call('XRANGE', KEYS[i], start, '+', 'COUNT', limit)
  end
  if #entries > 0 then
    pages[#pages + 1] = {i, '', 0, entries}
  else
    local last = head(KEYS[i])
    if not (quiet and last == after) then
      pages[#pages + 1] = {i, last, ms(last) < horizon and 1 or 0, entries}
    end
  end
end
return pages
