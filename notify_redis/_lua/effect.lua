-- Put in front of push.lua: a call with items or changes, which are applied to the inboxes of their users in the step
-- that appends them.
--
-- KEYS: for each event 11 more, its user's inbox. ARGV: after the general ones the retention (max_items, max_age or -1, "1"
-- to keep what is unread); then for each event one more, how to apply it. Nothing: it has no effect. "i": an item; then when it
-- expires, or nothing, and if it has a group, a newline and that. Else it is a change: "s" is stored in any case, "c" only
-- if it changes something, and not before followed topics were pulled; "p" likewise, topics were pulled. Then, for up_to,
-- the position in the user's own log that it contains; for a followed topic, its name in positions; for a merged session,
-- what to copy, or after "s" its name in positions: then the next one that looks copies it.
--
-- The result of "c" and "p" is a list: what a push returns, or "" if nothing was changed and nothing stored; the counts;
-- the end of the log; the other logs; the members that were changed. Or one word: "pull" and the other logs, if topics
-- have to be pulled; "room", if there would be too many logs; "again", if the inbox is not as the caller has read it.

local KEYS_OF_EACH, ARGUMENTS_OF_EACH, FIRST = 15, 4, 19
local made

retain(ARGV[16], ARGV[17], ARGV[18])

-- The functions of inbox.lua and change.lua, made once in a call, and only if it needs them.
local function rest()
  made = made or the_rest()
  return made
end

-- Inserts a new item. Where nothing has to be removed, its member waits for the sorted sets: one write instead of three.
-- The index says whether another item may be due; where it says nothing yet, this one is the first.
local function insert(id, k, a, now)
  local stream, records, index, member = KEYS[k], KEYS[k + 8], KEYS[k + 14], packed(id)
  local record, extra = ARGV[a + 2], string.sub(ARGV[a + 3], 2)
  local due_at = redis.call('ZSCORE', index, stream)
  local may_be_due = due_at and tonumber(due_at) <= now
  if not due_at and max_age >= 0 then schedule(index, stream, ms(id) + max_age + 1) end
  redis.call('HSET', records, member, record, '', id)
  if extra ~= '' or may_be_due or redis.call('HLEN', records) > max_items + 1 then -- one field is not an item
    rest().insert(rest().open(stream, k + 4), member, record, extra, may_be_due, now)
  elseif redis.call('APPEND', KEYS[k + 12], member) >= 16 * MAX_WAITING then
    rest().open(stream, k + 4)
  end
end

local ITEM = {apply = insert}

-- How an event is applied: nil for one that has no effect on an inbox. Else `result`, if nothing is to be stored; else
-- `apply`, which is called with the id, k, a and now, and `report`, which returns what the script is to return.
local function prepare(k, a, now)
  local how = ARGV[a + 3]
  if how == '' then return nil end
  local mode = string.sub(how, 1, 1)
  if mode == 'i' then return ITEM end
  return rest().prepare(rest().open(KEYS[k], k + 4), ARGV[a + 2], mode, string.sub(how, 2), now)
end

-- What the script is to return for an event that was stored by an earlier attempt, at this place.
local function report(k, a, place, now)
  local extra = ARGV[a + 3]
  if not string.find(extra, '^[cp]') then return place end
  return rest().report(rest().open(KEYS[k], k + 4), ARGV[a + 2], string.sub(extra, 2), place, now)
end
