-- Put in front of the scripts that tell other processes. _wake.py describes wake streams.

-- Where a wake stream ends, "epoch-bytes"; nil where no process reads it, unless `always`.
-- In a cluster neither key is declared, because they may be in another slot: while that one is moved, there is no place.
local function wake_end(counter, ttl, always)
  local place = redis.pcall('GET', counter)
  if type(place) == 'string' and string.match(place, '^%d+%-%d+$') then return place end
  if not always or type(place) == 'table' then return nil end
  local time = redis.call('TIME')
  place = string.format('%.0f-0', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('SET', counter, place, 'PX', ttl)
  return place
end

-- Appends one entry, and returns whether it did. Its id is the place after it, so that an entry which is missing shows.
local function wake(stream, counter, ttl, bound, always, fields)
  local place = wake_end(counter, ttl, always)
  if not place then return false end
  local epoch, before = string.match(place, '^(%d+)-(%d+)$')
  local bytes = tonumber(before)
  for i = 1, #fields do bytes = bytes + #fields[i] end
  place = string.format('%s-%.0f', epoch, bytes)
  local oldest = string.format('%s-%.0f', epoch, math.max(0, bytes - bound))
  redis.pcall('SET', counter, place, 'KEEPTTL')
  local added = redis.pcall('XADD', stream, 'MINID', '~', oldest, place, unpack(fields))
  if type(added) == 'table' and string.find(added.err, 'equal or smaller', 1, true) then
    redis.call('DEL', stream) -- of a later epoch, whose counter was lost before the clock stepped back
    added = redis.pcall('XADD', stream, place, unpack(fields))
  end
  if before == '0' then redis.pcall('PEXPIRE', stream, ttl) end
  return type(added) == 'string'
end
