-- Digests of a store of deliveries, beside dispatch.sql.

-- name: create_digests
CREATE TABLE IF NOT EXISTS {p}digests (
    id TEXT PRIMARY KEY NOT NULL,
    key TEXT NOT NULL,
    generation INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    type TEXT NOT NULL,
    channels TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    closes_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    count INTEGER NOT NULL
) WITHOUT ROWID

-- At most one digest of a key is open.
-- name: create_digests_one_open
CREATE UNIQUE INDEX IF NOT EXISTS {p}digests_one_open ON {p}digests (key) WHERE is_open

-- name: create_digests_generation
CREATE UNIQUE INDEX IF NOT EXISTS {p}digests_generation ON {p}digests (key, generation)

-- name: create_digests_due
CREATE INDEX IF NOT EXISTS {p}digests_due ON {p}digests (due_at) WHERE is_open

-- name: create_digests_of_user
CREATE INDEX IF NOT EXISTS {p}digests_of_user ON {p}digests (user_id) WHERE is_open

-- A notification is in at most one digest of a key, open or closed.
-- name: create_digest_items
CREATE TABLE IF NOT EXISTS {p}digest_items (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    notification_id TEXT NOT NULL,
    digest_id TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    is_cancelled INTEGER NOT NULL DEFAULT 0,
    UNIQUE (notification_id, key)
)

-- name: create_digest_items_in_order
CREATE INDEX IF NOT EXISTS {p}digest_items_in_order ON {p}digest_items (digest_id, number)

-- name: has_joined
SELECT 1 FROM {p}digest_items WHERE notification_id = ? AND key = ?

-- name: open_digest
SELECT id, opened_at, closes_at, due_at, count FROM {p}digests WHERE key = ? AND is_open

-- name: last_generation
SELECT max(generation) FROM {p}digests WHERE key = ?

-- name: add_digest
INSERT INTO {p}digests (id, key, generation, is_open, user_id, type, channels, opened_at, closes_at, due_at, count)
VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, 1)

-- name: move_digest
UPDATE {p}digests SET type = ?, channels = ?, closes_at = ?, due_at = ?, count = count + 1 WHERE id = ?

-- name: add_item
INSERT INTO {p}digest_items (key, notification_id, digest_id, joined_at) VALUES (?, ?, ?, ?)

-- name: items_to_leave
SELECT i.number, g.id FROM {p}digest_items AS i JOIN {p}digests AS g ON g.id = i.digest_id
WHERE i.notification_id = ? AND coalesce(g.channels = ?, 1) AND NOT i.is_cancelled AND g.is_open

-- name: items_to_leave_of_user
SELECT i.number, g.id
FROM {p}digests AS g CROSS JOIN {p}digest_items AS i ON i.notification_id = ? AND i.key = g.key AND i.digest_id = g.id
WHERE coalesce(g.channels = ?, 1) AND NOT i.is_cancelled AND g.is_open AND g.user_id = ?

-- name: leave
UPDATE {p}digest_items SET is_cancelled = 1 WHERE number = ?

-- name: count_down
UPDATE {p}digests SET count = count - 1 WHERE id = ?

-- name: due_digests
SELECT id FROM {p}digests WHERE is_open AND due_at <= ? ORDER BY due_at, id LIMIT ?

-- name: close_digest
UPDATE {p}digests SET is_open = 0 WHERE id = ?

-- name: get_digest
SELECT user_id, type, channels FROM {p}digests WHERE id = ?

-- name: last_address
SELECT r.address FROM {p}digest_items AS i
JOIN {p}recipients AS r ON r.notification_id = i.notification_id AND r.user_id = ?
WHERE i.digest_id = ? AND length(r.address) > 0 ORDER BY i.number DESC LIMIT 1

-- name: items
SELECT i.joined_at, coalesce((
        SELECT d.provider_id FROM {p}deliveries AS d JOIN {p}digests AS g ON g.user_id = d.user_id
        WHERE d.notification_id = i.notification_id AND g.id = i.digest_id AND d.channel = ? AND d.endpoint = ''
    ), ''), {n.notification}
FROM {p}digest_items AS i JOIN {p}notifications AS n ON n.id = i.notification_id
WHERE i.digest_id = ? AND NOT i.is_cancelled ORDER BY i.number LIMIT ? OFFSET ?

-- name: forget_items
DELETE FROM {p}digest_items WHERE digest_id IN (SELECT id FROM {p}digests WHERE user_id = ?)

-- name: forget_digests
DELETE FROM {p}digests WHERE user_id = ?
