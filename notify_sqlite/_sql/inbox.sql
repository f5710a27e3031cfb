-- What a store keeps for inboxes, beside store.sql. {p} is the table prefix. See there for parameters and names.

-- What an inbox contains, counted: items in all, and of its active items all, those never shown, and those not read.
-- Two lower bounds show without a look at the items whether any can be due: `oldest`, of their ids, and `expires`.
-- name: create_inbox
CREATE TABLE IF NOT EXISTS {p}inbox (
    user TEXT PRIMARY KEY NOT NULL,
    kept INTEGER NOT NULL,
    total INTEGER NOT NULL,
    unseen INTEGER NOT NULL,
    unread INTEGER NOT NULL,
    oldest INTEGER,
    expires INTEGER
) WITHOUT ROWID

-- name: create_inbox_by_oldest
CREATE INDEX IF NOT EXISTS {p}inbox_by_oldest ON {p}inbox (oldest, user) WHERE oldest IS NOT NULL

-- name: create_inbox_by_expires
CREATE INDEX IF NOT EXISTS {p}inbox_by_expires ON {p}inbox (expires, user) WHERE expires IS NOT NULL

-- The user's own log is ''. `place` is 0 for an unread item, 1 for one that was read, 2 for one that was dismissed, which
-- was read too; one that was never shown is unread. Rows are in the order of their insertion, so those of a transaction
-- are on a few pages, for any number of users; each adds one entry to the index by place, if it has no group and no expiry.
-- name: create_items
CREATE TABLE IF NOT EXISTS {p}items (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    place INTEGER NOT NULL,
    id INTEGER NOT NULL,
    log TEXT NOT NULL,
    grp TEXT,
    seen_at INTEGER,
    read_at INTEGER,
    dismissed_at INTEGER,
    expires_at INTEGER,
    type TEXT NOT NULL,
    data BLOB NOT NULL,
    micros INTEGER NOT NULL,
    meta TEXT NOT NULL
)

-- name: create_items_by_place
CREATE UNIQUE INDEX IF NOT EXISTS {p}items_by_place ON {p}items (user, place, id, log)

-- name: create_items_current
CREATE UNIQUE INDEX IF NOT EXISTS {p}items_current ON {p}items (user, grp, log) WHERE grp IS NOT NULL

-- name: create_items_expiring
CREATE INDEX IF NOT EXISTS {p}items_expiring ON {p}items (user, expires_at) WHERE expires_at IS NOT NULL

-- Topics that are followed, and sessions that were merged, which are not read again.
-- name: create_follows
CREATE TABLE IF NOT EXISTS {p}follows (
    user TEXT NOT NULL,
    topic TEXT NOT NULL,
    since INTEGER NOT NULL,
    position INTEGER NOT NULL,
    merged INTEGER NOT NULL,
    PRIMARY KEY (user, topic)
) WITHOUT ROWID

-- name: create_follows_by_topic
CREATE INDEX IF NOT EXISTS {p}follows_by_topic ON {p}follows (topic, user)

-- name: has_inbox
SELECT count(*) FROM sqlite_master WHERE name = '{p}inbox'

-- name: box
SELECT user, kept, total, unseen, unread, oldest, expires FROM {p}inbox WHERE user = ?

-- name: boxes
SELECT user, kept, total, unseen, unread, oldest, expires FROM {p}inbox WHERE user IN (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
)

-- name: set_box
INSERT INTO {p}inbox (user, kept, total, unseen, unread, oldest, expires) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user) DO UPDATE SET kept = excluded.kept, total = excluded.total, unseen = excluded.unseen,
    unread = excluded.unread, oldest = excluded.oldest, expires = excluded.expires

-- Leaves the indexes of the bounds alone.
-- name: set_counts
INSERT INTO {p}inbox (user, kept, total, unseen, unread, oldest, expires) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user) DO UPDATE SET kept = excluded.kept, total = excluded.total, unseen = excluded.unseen,
    unread = excluded.unread

-- name: bounds
SELECT
    (SELECT min(id) FROM (
        SELECT min(id) AS id FROM {p}items WHERE user = ? AND place = 0
        UNION ALL SELECT min(id) FROM {p}items WHERE user = ? AND place = 1
        UNION ALL SELECT min(id) FROM {p}items WHERE user = ? AND place = 2
    )),
    (SELECT min(expires_at) FROM {p}items WHERE user = ? AND expires_at IS NOT NULL)

-- name: insert_item
INSERT INTO {p}items
    (user, place, id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_plain_item
INSERT INTO {p}items (user, place, id, log, type, data, micros, meta) VALUES (?, 0, ?, '', ?, ?, ?, ?)

-- name: delete_item
DELETE FROM {p}items WHERE user = ? AND place = ? AND id = ? AND log = ?

-- name: set_item
UPDATE {p}items SET seen_at = ?, read_at = ?, dismissed_at = ?, place = ?
WHERE user = ? AND place = ? AND id = ? AND log = ?

-- name: set_seen
UPDATE {p}items SET seen_at = ?
WHERE user = ? AND log = ? AND id <= ? AND place = 0 AND seen_at IS NULL
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)

-- name: set_read
UPDATE {p}items SET seen_at = coalesce(seen_at, ?), read_at = ?, place = 1
WHERE user = ? AND log = ? AND id <= ? AND place = 0
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)

-- name: set_unread
UPDATE {p}items SET read_at = NULL, dismissed_at = NULL, place = 0
WHERE user = ? AND log = ? AND id <= ? AND place IN (1, 2)
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)

-- name: set_dismissed
UPDATE {p}items SET seen_at = coalesce(seen_at, ?), read_at = coalesce(read_at, ?), dismissed_at = ?, place = 2
WHERE user = ? AND log = ? AND id <= ? AND place IN (0, 1)
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)

-- name: set_restored
UPDATE {p}items SET dismissed_at = NULL, place = 1
WHERE user = ? AND log = ? AND id <= ? AND place = 2
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)

-- name: current_item
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items WHERE user = ? AND grp = ? AND log = ?

-- name: expired_items
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND expires_at IS NOT NULL AND expires_at <= ? LIMIT ?

-- The first place is 0; 1 if unread items are kept, so that none of them is looked at.
-- name: aged_items
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place IN (?, 1, 2) AND id < ? LIMIT ?

-- name: oldest_items
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place = ? ORDER BY id, log LIMIT ?

-- name: items_of_log
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items WHERE user = ? AND log = ? LIMIT ?

-- name: named_item
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place IN (0, 1, 2) AND id = ? AND log = ?

-- name: named_group
SELECT id, log, seen_at, read_at, dismissed_at, expires_at
FROM {p}items INDEXED BY {p}items_current WHERE user = ? AND grp = ?

-- name: up_to_seen
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place = 0 AND id <= ? AND seen_at IS NULL

-- name: up_to_read
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place = 0 AND id <= ?

-- name: up_to_unread
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place IN (1, 2) AND id <= ?

-- name: up_to_dismissed
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place IN (0, 1) AND id <= ?

-- name: up_to_restored
SELECT id, log, seen_at, read_at, dismissed_at, expires_at FROM {p}items
WHERE user = ? AND place = 2 AND id <= ?

-- name: due_boxes_by_age
SELECT oldest, user FROM {p}inbox WHERE oldest IS NOT NULL AND oldest < ? AND (oldest, user) > (?, ?)
ORDER BY oldest, user LIMIT ?

-- name: due_boxes_by_expiry
SELECT expires, user FROM {p}inbox WHERE expires IS NOT NULL AND expires <= ? AND (expires, user) > (?, ?)
ORDER BY expires, user LIMIT ?

-- name: counts
SELECT
    (SELECT last_id FROM {p}heads WHERE user = ?),
    EXISTS (SELECT 1 FROM {p}follows WHERE user = ?),
    i.kept, i.total, i.unseen, i.unread, i.oldest, i.expires
FROM (SELECT 1) LEFT JOIN {p}inbox AS i ON i.user = ?

-- name: item_of_id
SELECT id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta FROM {p}items
WHERE user = ? AND place IN (0, 1, 2) AND id = ? AND log = ?

-- name: items_of_place
SELECT id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta
FROM {p}items INDEXED BY {p}items_by_place
WHERE user = ? AND place = ? AND (id, log) < (?, ?)
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)
    AND (? IS NULL OR type IN (SELECT value FROM json_each(?)))
ORDER BY id DESC, log DESC LIMIT ?

-- name: items_of_group
SELECT id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta
FROM {p}items INDEXED BY {p}items_current
WHERE user = ? AND grp = ? AND (id, log) < (?, ?)
    AND (expires_at IS NULL OR expires_at > ?) AND (id >= ? OR read_at IS NULL AND ?)
    AND (? IS NULL OR type IN (SELECT value FROM json_each(?)))

-- name: logs
SELECT f.topic, f.since, f.position, f.merged, h.last_id
FROM {p}follows AS f LEFT JOIN {p}heads AS h ON h.user = f.topic WHERE f.user = ? ORDER BY f.topic

-- name: moved_topics
SELECT f.topic, f.position, h.last_id
FROM {p}follows AS f CROSS JOIN {p}heads AS h ON h.user = f.topic
WHERE f.user = ? AND f.merged = 0 AND h.last_id > f.position

-- name: has_item_after
SELECT EXISTS (SELECT 1 FROM {p}items WHERE user = ? AND place IN (0, 1, 2) AND id > ? AND log = '')

-- name: items_after
SELECT id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta FROM {p}items
WHERE user = ? AND place = ? AND id > ? AND id <= ? AND log = '' ORDER BY id LIMIT ?

-- name: all_of_log
SELECT id, log, grp, seen_at, read_at, dismissed_at, expires_at, type, data, micros, meta FROM {p}items
WHERE user = ? AND log = ?

-- name: set_position
UPDATE {p}follows SET position = ? WHERE user = ? AND topic = ? AND position < ?

-- name: insert_follow
INSERT OR IGNORE INTO {p}follows (user, topic, since, position, merged) VALUES (?, ?, ?, ?, ?)

-- name: follow
SELECT 1 FROM {p}follows WHERE user = ? AND topic = ? AND merged = 0

-- name: delete_follow
DELETE FROM {p}follows WHERE user = ? AND topic = ? AND merged = 0

-- name: topics_after
SELECT topic, since FROM {p}follows WHERE user = ? AND topic > ? AND merged = 0 ORDER BY topic LIMIT ?

-- name: followers_after
SELECT user, since FROM {p}follows WHERE topic = ? AND user > ? AND merged = 0 ORDER BY user LIMIT ?

-- name: forget_follows
DELETE FROM {p}follows WHERE user = ?

-- name: forget_box
DELETE FROM {p}inbox WHERE user = ?
