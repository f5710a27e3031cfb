-- What a store keeps. {p} is the table prefix. Statements are separated by a line that names the next one.
-- Parameters are plain ?: early releases of Python 3.12 warn of numbered ones (?1) bound from a sequence.

-- name: create_schema
CREATE TABLE IF NOT EXISTS {p}schema (
    part TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID

-- name: start_schema
INSERT OR IGNORE INTO {p}schema (part, version) VALUES ('store', 1)

-- name: version
SELECT max(version) FROM {p}schema WHERE part = 'store'

-- name: create_counter
CREATE TABLE IF NOT EXISTS {p}counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_id INTEGER NOT NULL
)

-- name: create_heads
CREATE TABLE IF NOT EXISTS {p}heads (
    user TEXT PRIMARY KEY NOT NULL,
    last_id INTEGER NOT NULL,
    kept INTEGER NOT NULL
) WITHOUT ROWID

-- name: create_heads_by_last_id
CREATE INDEX IF NOT EXISTS {p}heads_by_last_id ON {p}heads (last_id)

-- name: create_events
CREATE TABLE IF NOT EXISTS {p}events (
    user TEXT NOT NULL,
    id INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    type TEXT NOT NULL,
    data BLOB NOT NULL,
    micros INTEGER NOT NULL,
    grp TEXT,
    key TEXT,
    meta TEXT,
    PRIMARY KEY (user, id)
) WITHOUT ROWID

-- name: create_events_by_id
CREATE INDEX IF NOT EXISTS {p}events_by_id ON {p}events (id)

-- name: create_keys
CREATE TABLE IF NOT EXISTS {p}keys (
    user TEXT NOT NULL,
    key TEXT NOT NULL,
    id INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    PRIMARY KEY (user, key)
) WITHOUT ROWID

-- name: create_keys_by_id
CREATE INDEX IF NOT EXISTS {p}keys_by_id ON {p}keys (id)

-- name: create_ephemerals
CREATE TABLE IF NOT EXISTS {p}ephemerals (
    id INTEGER PRIMARY KEY,
    sender TEXT NOT NULL,
    user TEXT NOT NULL,
    data BLOB NOT NULL
)

-- name: start_counter
INSERT OR IGNORE INTO {p}counter (one, last_id) VALUES (1, 0)

-- name: last_id
SELECT last_id FROM {p}counter

-- name: set_last_id
UPDATE {p}counter SET last_id = ?

-- name: head_of
SELECT user, last_id, kept FROM {p}heads WHERE user = ?

-- name: heads_of
SELECT user, last_id, kept FROM {p}heads WHERE user IN (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
)

-- name: set_head
INSERT INTO {p}heads (user, last_id, kept) VALUES (?, ?, ?)
ON CONFLICT (user) DO UPDATE SET last_id = excluded.last_id, kept = excluded.kept

-- name: insert_event
INSERT INTO {p}events (user, id, prev, type, data, micros, grp, key, meta) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_plain_event
INSERT INTO {p}events (user, id, prev, type, data, micros) VALUES (?, ?, ?, ?, ?, ?)

-- name: event_of_key
SELECT k.id, k.prev, e.type, e.data, e.micros, e.grp, e.key, e.meta
FROM {p}keys AS k LEFT JOIN {p}events AS e ON e.user = k.user AND e.id = k.id
WHERE k.user = ? AND k.key = ? AND k.id >= ?

-- name: set_key
INSERT OR REPLACE INTO {p}keys (user, key, id, prev) VALUES (?, ?, ?, ?)

-- name: events_after
SELECT id, prev, type, data, micros, grp, key, meta FROM {p}events
WHERE user = ? AND id > ? ORDER BY id LIMIT ?

-- name: end_of_log
SELECT
    (SELECT last_id FROM {p}heads WHERE user = ?),
    EXISTS (SELECT 1 FROM {p}events WHERE user = ? AND id > ?)

-- name: news
SELECT user, last_id FROM {p}heads WHERE last_id > ? ORDER BY last_id LIMIT ?

-- name: delete_oldest
DELETE FROM {p}events
WHERE user = ? AND id < (SELECT id FROM {p}events WHERE user = ? ORDER BY id LIMIT 1 OFFSET ?)

-- name: older
SELECT user, id FROM {p}events WHERE id < ? ORDER BY id LIMIT ?

-- name: delete_event
DELETE FROM {p}events WHERE user = ? AND id = ?

-- name: lower_kept
UPDATE {p}heads SET kept = kept - ? WHERE user = ?

-- name: older_keys
SELECT user, key FROM {p}keys WHERE id < ? ORDER BY id LIMIT ?

-- name: delete_key
DELETE FROM {p}keys WHERE user = ? AND key = ?

-- name: insert_ephemeral
INSERT INTO {p}ephemerals (id, sender, user, data) VALUES (?, ?, ?, ?)

-- name: ephemerals_after
SELECT id, user, CASE WHEN sender = ? THEN NULL ELSE data END FROM {p}ephemerals WHERE id > ? ORDER BY id LIMIT ?

-- name: has_ephemerals
SELECT count(*) FROM sqlite_master WHERE name = '{p}ephemerals'

-- name: any_ephemeral
SELECT 1 FROM {p}ephemerals WHERE id < ? LIMIT ?

-- name: delete_ephemerals
DELETE FROM {p}ephemerals WHERE id < ?

-- name: forget_events
DELETE FROM {p}events WHERE user = ? AND id IN (SELECT id FROM {p}events WHERE user = ? ORDER BY id LIMIT ?)

-- name: forget_keys
DELETE FROM {p}keys WHERE user = ? AND key IN (SELECT key FROM {p}keys WHERE user = ? LIMIT ?)

-- name: forget_head
DELETE FROM {p}heads WHERE user = ?

-- name: forget_ephemerals
DELETE FROM {p}ephemerals WHERE user = ?

-- name: presence_tables
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('{p}presence', '{p}leases')

-- name: forget_presence
DELETE FROM {p}presence WHERE user = ? AND lease NOT IN (
    SELECT lease FROM {p}leases WHERE expires - ? BETWEEN 1 AND ttl
)
