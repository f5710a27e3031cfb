-- Put in front of the scripts that read or write an inbox. _inbox_keys.py describes the keys of an inbox.
--
-- What the insert of a plain item needs is here, and nothing else: each call of a script creates all of its functions.

local LAST_MS = 253402300799999 -- the end of the year 9999; what expires later does not expire
local MAX_WAITING = 100 -- members of new items that wait for the sorted sets
local max_items, max_age, keep_unread -- the retention, set by each script; a max_age of -1: none

local function retain(items, ms, keep)
  max_items, max_age, keep_unread = tonumber(items), tonumber(ms), keep == '1'
end

-- The sixteen hexadecimal digits of an id, which sort as ids do; what does not fit becomes the nearest that does.
local function packed(id)
  local ms, sequence = string.match(id, '^(%d+)%-(%d+)$')
  if not ms then return '0000000000000000' end
  ms, sequence = tonumber(ms), tonumber(sequence)
  if ms > 17592186044415 then return 'ffffffffffffffff' end
  return string.format('%011x%05x', ms, math.min(sequence, 1048575))
end

-- Notes in the index of the partition that an item may be due at this time.
local function schedule(index, stream, ms) redis.call('ZADD', index, 'LT', string.format('%.0f', ms), stream) end
