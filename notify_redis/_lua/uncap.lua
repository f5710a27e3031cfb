-- Erases what caps have counted of a user. KEYS: the index of the user's keys.
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('UNLINK', key) end
return redis.call('UNLINK', KEYS[1])
