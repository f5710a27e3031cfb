-- Put in front of push.lua: a call with items or changes, which are applied to the inboxes of their users in the step
-- that appends them.
--
-- KEYS: for each event 10 more, its user's inbox. ARGV: after the general ones the retention (max_items, max_age or -1, "1"
-- to keep what is unread); then for each event one more, how to apply it. Nothing: it has no effect. "i": an item; then when it
-- expires, or nothing, and if it has a group, a newline and that. Else it is a change: "s" is stored in any case, "c" only
-- if it changes something, and not before followed topics were pulled; "p" likewise, topics were pulled. Then, for up_to,
-- the position in the user's own log that it contains; for a followed topic, its name in positions; for a merged session,
-- what to copy, or after "s" its name in positions: then the next one that looks copies it.
--
-- The result of "c" and "p" is a list: what a push returns, or "" if nothing was changed and nothing stored; the counts;
-- the end of the log; the other logs; the members that were changed. Or one word: "pull" and the other logs, if topics
-- have to be pulled; "room", if there would be too many logs; "again", if the inbox is not as the caller has read it.

local KEYS_OF_EACH, ARGUMENTS_OF_EACH, FIRST = 14, 4, 19
local of_changes

retain(ARGV[16], ARGV[17], ARGV[18])

-- Inserts a new item. The index says whether another one may be due; where it says nothing yet, this one is the first.
local function insert(box, id, record, extra, now)
  local due_at = redis.call('ZSCORE', box.index, box.stream)
  if due_at and tonumber(due_at) <= now then
    purge(box, now, MANY)
    reschedule(box)
  end
  local expires, group = string.match(extra, '^(%d*)\n?(.*)$')
  add(box, packed(id), record, group ~= '' and '\n' .. group or nil, tonumber(expires))
  if not due_at and max_age >= 0 then schedule(box, ms(id) + max_age + 1) end
  trim(box)
end

-- How an event is applied: nil for one that has no effect on an inbox. Else `result`, if nothing is to be stored; else
-- `apply`, which is called with the id, and `report`, which returns what the script is to return.
local function prepare(k, a, now)
  local mode, extra = string.sub(ARGV[a + 3], 1, 1), string.sub(ARGV[a + 3], 2)
  if mode == '' then return nil end
  local box = open(KEYS[k], k + 4)
  if mode == 'i' then
    return {
      apply = function(id)
        insert(box, id, ARGV[a + 2], extra, now)
        redis.call('HSET', box.logs, '', id)
      end,
    }
  end
  of_changes = of_changes or changes()
  return of_changes.prepare(box, ARGV[a + 2], mode, extra, now)
end

-- What the script is to return for an event that was stored by an earlier attempt, at this place.
local function report(k, a, place, now)
  local extra = ARGV[a + 3]
  if not string.find(extra, '^[cp]') then return place end
  of_changes = of_changes or changes()
  return of_changes.report(open(KEYS[k], k + 4), ARGV[a + 2], string.sub(extra, 2), place, now)
end
