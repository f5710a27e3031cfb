-- Keeps a wake stream, for a process that reads it. KEYS: the stream, its counter. ARGV: time to live in milliseconds.
-- Returns where the stream ends.

local place = wake_end(KEYS[2], ARGV[1], true)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return place
