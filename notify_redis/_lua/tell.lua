-- Carries a message that is not stored.
--
-- KEYS: the channel. ARGV: publish command, (suffix, not used), wake stream, its counter, its time to live in
--   milliseconds, its bound in bytes, "1" to create it; then the field of the entry, the message.
-- Returns nil; if publishing is refused, why, or nothing ("") if the wake stream carries the message.

local refused
if ARGV[1] ~= '' then
  local sent = redis.pcall(ARGV[1], KEYS[1], ARGV[9])
  if type(sent) == 'table' then refused = sent.err end
end
local carried = wake(ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1', {ARGV[8], ARGV[9]})
return refused and (carried and '' or refused)
