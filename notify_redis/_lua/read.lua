-- Reads pages of several logs of one master, each consistent with its head.
--
-- KEYS: streams. ARGV: limit (0: heads alone), age in milliseconds (0: none), "1" to leave out streams with nothing new;
-- then the position of each stream.
-- Returns the time, then for each stream {number, head, whether the head is older than the age, entries}; the head is
-- empty where there are entries, and "0" where there is no stream.
--
-- One XREAD reads all of them. A position before the age is moved there: what is older has expired, trimmed or not.

local limit, age, quiet = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local horizon = age > 0 and now - age or 0

local entries = {}
if limit > 0 and #KEYS > 0 then
  local command = {'XREAD', 'COUNT', limit, 'STREAMS', unpack(KEYS)}
  for i = 1, #KEYS do
    local after = ARGV[3 + i]
    if ms(after) < horizon then after = string.format('%.0f-18446744073709551615', horizon - 1) end
    command[4 + #KEYS + i] = after
  end
  for _, found in ipairs(redis.call(unpack(command)) or {}) do entries[found[1]] = found[2] end
end

local pages = {now}
for i = 1, #KEYS do
  local found = entries[KEYS[i]]
  if found then
    pages[#pages + 1] = {i, '', 0, found}
  else
    local last = head(KEYS[i])
    if not (quiet and last == ARGV[3 + i]) then
      pages[#pages + 1] = {i, last, ms(last) < horizon and 1 or 0, {}}
    end
  end
end
return pages
