-- Notes a follower of a topic, and returns the end of the topic's log. KEYS: stream, the inbox, followers. ARGV: the
-- follower.

redis.call('ZADD', KEYS[13], 0, ARGV[1])
return end_of(keys_of(KEYS[1], 2))
