-- Reads a session that is to be merged into an inbox. KEYS: stream, the inbox. ARGV: retention, as for a page; the
-- position after which its items are wanted; up to which, or "" for all.
-- Returns the end of what was read, the other logs, and for each item the member, its record and its times: of the
-- session's own log in these bounds, and all of other logs.

retain(ARGV[1], ARGV[2], ARGV[3])
local box = open(KEYS[1], 2)
local time = redis.call('TIME')
purge_all(box, time[1] * 1000 + math.floor(time[2] / 1000))
local last = ARGV[5] == '' and end_of(box) or ARGV[5]
local from, to = packed(ARGV[4]), packed(last)

local wanted = {}
for _, key in ipairs({box.active, box.dismissed}) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if #member > 16 or member > from and member <= to then wanted[#wanted + 1] = member end
  end
end
local rows = {}
in_parts(wanted, function(part)
  local records = redis.call('HMGET', box.records, unpack(part))
  local times = redis.call('HMGET', box.times, unpack(part))
  for i, member in ipairs(part) do
    rows[#rows + 1], rows[#rows + 2], rows[#rows + 3] = member, records[i], times[i] or ''
  end
end)
return {last, redis.call('HGETALL', box.logs), rows}
