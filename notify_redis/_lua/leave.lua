-- Removes a topic from an inbox, because that is forgotten. KEYS: stream, the inbox. ARGV: the log.

local box = open(KEYS[1], 2)
local log = redis.call('HGET', box.logs, ARGV[1])
if not log or string.sub(log, 1, 1) ~= 'f' then return 0 end
redis.call('HDEL', box.logs, ARGV[1])
local gone = of_log(box, ARGV[1])
if #gone > 0 then remove(box, gone) end
return #gone
