-- What a store of deliveries keeps. {p} is the table prefix. See store.sql for parameters and names.
-- Instants are milliseconds since 1970.

-- name: create_schema
CREATE TABLE IF NOT EXISTS {p}schema (
    part TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID

-- name: start_schema
INSERT OR IGNORE INTO {p}schema (part, version) VALUES ('dispatch', 1)

-- name: version
SELECT max(version) FROM {p}schema WHERE part = 'dispatch'

-- name: create_notifications
CREATE TABLE IF NOT EXISTS {p}notifications (
    id TEXT PRIMARY KEY NOT NULL,
    type TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    digest_id TEXT,
    meta BLOB NOT NULL,
    cursor TEXT
) WITHOUT ROWID

-- name: create_notifications_by_age
CREATE INDEX IF NOT EXISTS {p}notifications_by_age ON {p}notifications (created_at)

-- name: create_recipients
CREATE TABLE IF NOT EXISTS {p}recipients (
    notification_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    decisions BLOB NOT NULL,
    address BLOB NOT NULL,
    PRIMARY KEY (notification_id, user_id)
) WITHOUT ROWID

-- `begun` is the fence with which sending began last. Rows are in the order of their insertion, since their ids are random.
-- name: create_deliveries
CREATE TABLE IF NOT EXISTS {p}deliveries (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    notification_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    state INTEGER NOT NULL,
    due_at INTEGER,
    expires_at INTEGER,
    priority INTEGER NOT NULL,
    after_channel TEXT NOT NULL,
    delay REAL NOT NULL,
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    opened_at INTEGER,
    clicked_at INTEGER,
    begun INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0
)

-- States below 10 are open. A claimed delivery is due at the end of its lease, so this finds it too. By channel, so that
-- no call reads rows of other channels, however many wait.
-- name: create_deliveries_by_channel
CREATE INDEX IF NOT EXISTS {p}deliveries_by_channel ON {p}deliveries (priority, channel, due_at) WHERE state < 10

-- name: create_deliveries_of_user
CREATE INDEX IF NOT EXISTS {p}deliveries_of_user ON {p}deliveries (user_id) WHERE state = 0

-- name: create_deliveries_of_recipient
CREATE INDEX IF NOT EXISTS {p}deliveries_of_recipient ON {p}deliveries (notification_id, user_id)

-- name: create_deliveries_ended
CREATE INDEX IF NOT EXISTS {p}deliveries_ended ON {p}deliveries (state, id) WHERE state >= 20

-- name: create_deliveries_parked
CREATE INDEX IF NOT EXISTS {p}deliveries_parked ON {p}deliveries (channel, user_id) WHERE state = 27

-- name: create_attempts
CREATE TABLE IF NOT EXISTS {p}attempts (
    delivery_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    is_late INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, fence)
) WITHOUT ROWID

-- name: create_requests
CREATE TABLE IF NOT EXISTS {p}requests (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    notification_id TEXT NOT NULL,
    keep_until INTEGER,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID

-- name: create_requests_ending
CREATE INDEX IF NOT EXISTS {p}requests_ending ON {p}requests (keep_until)

-- name: get_request
SELECT fingerprint, notification_id FROM {p}requests WHERE tenant = ? AND key = ? AND coalesce(keep_until > ?, 1)

-- name: set_request
INSERT OR REPLACE INTO {p}requests (tenant, key, fingerprint, notification_id, keep_until) VALUES (?, ?, ?, ?, ?)

-- name: get_cursor
SELECT cursor FROM {p}notifications WHERE id = ?

-- name: set_cursor
UPDATE {p}notifications SET cursor = ? WHERE id = ?

-- name: add_notification
INSERT OR IGNORE INTO {p}notifications ({notification}) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: add_recipient
INSERT OR IGNORE INTO {p}recipients ({recipient}) VALUES (?, ?, ?, ?)

-- name: add_delivery
INSERT OR IGNORE INTO {p}deliveries ({delivery}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- The highest priority below a bound, of what is open.
-- name: next_priority
SELECT max(priority) FROM {p}deliveries WHERE state < 10 AND priority < ?

-- The first channel after another one that has open deliveries of a priority.
-- name: next_channel
SELECT min(channel) FROM {p}deliveries WHERE state < 10 AND priority = ? AND channel > ?

-- name: due
SELECT due_at, number FROM {p}deliveries
WHERE state < 10 AND priority = ? AND channel = ? AND due_at <= ?
    AND CASE state WHEN 0 THEN due_at <= ? ELSE lease_until <= ? END
ORDER BY due_at, number LIMIT ?

-- name: claim
UPDATE {p}deliveries
SET updated_at = CASE state WHEN 0 THEN ? ELSE updated_at END, state = max(state, 1), fence = fence + 1, due_at = ?,
    lease_until = ?
WHERE number = ?

-- Rows by their numbers, in the order in which these are given.
-- name: claimed
SELECT {d.delivery}, {n.notification}, {r.recipient}
FROM json_each(?) AS given
CROSS JOIN {p}deliveries AS d ON d.number = given.value
CROSS JOIN {p}notifications AS n ON n.id = d.notification_id
CROSS JOIN {p}recipients AS r ON r.notification_id = d.notification_id AND r.user_id = d.user_id
ORDER BY given.key

-- name: one_delivery
SELECT {d.delivery}, {n.notification}, {r.recipient}
FROM {p}deliveries AS d
JOIN {p}notifications AS n ON n.id = d.notification_id
JOIN {p}recipients AS r ON r.notification_id = d.notification_id AND r.user_id = d.user_id
WHERE d.id = ?

-- name: standing
SELECT d.id, d.number, d.state, d.fence, d.begun, d.lease_until, d.reason
FROM json_each(?) AS given CROSS JOIN {p}deliveries AS d ON d.id = given.value

-- name: set_state
UPDATE {p}deliveries SET state = ?, reason = ?, updated_at = ? WHERE number = ?

-- name: begin
UPDATE {p}deliveries SET state = 2, reason = ?, updated_at = ?, attempts = attempts + 1, begun = fence WHERE number = ?

-- name: begin_with_lease
UPDATE {p}deliveries
SET state = 2, reason = ?, updated_at = ?, attempts = attempts + 1, begun = fence, lease_until = ?, due_at = ?
WHERE number = ?

-- name: wait_again
UPDATE {p}deliveries SET state = 0, reason = ?, updated_at = ?, attempts = attempts - ?, due_at = ? WHERE number = ?

-- name: set_provider_id
UPDATE {p}deliveries SET provider_id = ? WHERE number = ?

-- name: refund
UPDATE {p}deliveries SET attempts = attempts - 1 WHERE number = ?

-- name: add_attempt
INSERT OR IGNORE INTO {p}attempts (delivery_id, fence, at, state, reason, error, is_late) VALUES (?, ?, ?, ?, ?, ?, ?)

-- What waits for the channels of these deliveries, and has not been claimed.
-- name: waiting_for
SELECT DISTINCT w.number, w.due_at, w.delay, w.notification_id, w.user_id, w.after_channel
FROM json_each(?) AS given
CROSS JOIN {p}deliveries AS d ON d.number = given.value
CROSS JOIN {p}deliveries AS w
    ON w.notification_id = d.notification_id AND w.user_id = d.user_id AND w.after_channel = d.channel
WHERE w.state = 0 AND w.fence = 0

-- name: states_of_channel
SELECT DISTINCT state FROM {p}deliveries WHERE notification_id = ? AND user_id = ? AND channel = ?

-- name: set_due
UPDATE {p}deliveries SET due_at = ? WHERE number = ?

-- name: stoppable
SELECT number, reason FROM {p}deliveries
WHERE notification_id = ? AND coalesce(channel = ?, 1) AND state IN (0, 1, 27)

-- name: stoppable_of_user
SELECT number, reason FROM {p}deliveries
WHERE notification_id = ? AND coalesce(channel = ?, 1) AND state IN (0, 1, 27) AND user_id = ?

-- name: get_notification
SELECT {notification} FROM {p}notifications WHERE id = ?

-- name: get_recipient
SELECT {recipient} FROM {p}recipients WHERE notification_id = ? AND user_id = ?

-- name: deliveries_of
SELECT {delivery} FROM {p}deliveries WHERE notification_id = ? AND user_id = ? ORDER BY channel, endpoint

-- name: attempts_of
SELECT delivery_id, at, fence, state, reason, error, is_late FROM {p}attempts
WHERE delivery_id IN (SELECT id FROM {p}deliveries WHERE notification_id = ? AND user_id = ?)
ORDER BY at, fence

-- name: in_states
SELECT {delivery} FROM {p}deliveries WHERE state IN (SELECT value FROM json_each(?)) AND id > ? ORDER BY id LIMIT ?

-- name: hurry_user
UPDATE {p}deliveries SET due_at = ?
WHERE state = 0 AND due_at > ? AND (after_channel = '' OR fence > 0) AND user_id = ? AND coalesce(channel = ?, attempts = 0)

-- name: hurry_channel
UPDATE {p}deliveries SET due_at = ?
WHERE number IN (
    SELECT number FROM {p}deliveries
    WHERE state < 10 AND priority = ? AND channel = ? AND due_at > ? AND state = 0 AND (after_channel = '' OR fence > 0)
    LIMIT ?
)

-- name: unpark_user
UPDATE {p}deliveries SET state = 0, due_at = ?, updated_at = ? WHERE state = 27 AND channel = ? AND user_id = ?

-- name: unpark_channel
UPDATE {p}deliveries SET state = 0, due_at = ?, updated_at = ?
WHERE number IN (SELECT number FROM {p}deliveries WHERE state = 27 AND channel = ? LIMIT ?)

-- name: set_opened
UPDATE {p}deliveries SET opened_at = coalesce(opened_at, ?) WHERE id = ?

-- name: set_clicked
UPDATE {p}deliveries SET opened_at = coalesce(opened_at, ?), clicked_at = coalesce(clicked_at, ?) WHERE id = ?

-- Old notifications of which nothing is open, neither a delivery of their own nor a digest that they are in.
-- name: old
SELECT id FROM {p}notifications AS n
WHERE created_at < ?
    AND NOT EXISTS (SELECT 1 FROM {p}deliveries AS d WHERE d.notification_id = n.id AND d.state < 10)
    AND NOT EXISTS (
        SELECT 1 FROM {p}digest_items AS i JOIN {p}digests AS g ON g.id = i.digest_id
        WHERE i.notification_id = n.id AND (
            g.is_open OR EXISTS (SELECT 1 FROM {p}deliveries AS d WHERE d.notification_id = g.id AND d.state < 10)
        )
    )
ORDER BY created_at LIMIT ?

-- As in_states, for a single state from 20 on, which is a range of an index.
-- name: in_late_state
SELECT {delivery} FROM {p}deliveries WHERE state >= 20 AND state = ? AND id > ? ORDER BY id LIMIT ?

-- name: remove_attempts
DELETE FROM {p}attempts WHERE delivery_id IN (SELECT id FROM {p}deliveries WHERE notification_id = ? LIMIT ?)

-- name: remove_deliveries
DELETE FROM {p}deliveries WHERE number IN (SELECT number FROM {p}deliveries WHERE notification_id = ? LIMIT ?)

-- name: remove_recipients
DELETE FROM {p}recipients WHERE notification_id = ? AND user_id IN (
    SELECT user_id FROM {p}recipients WHERE notification_id = ? LIMIT ?
)

-- name: remove_digest
DELETE FROM {p}digests WHERE id = ?

-- name: remove_items
DELETE FROM {p}digest_items WHERE digest_id = ?

-- name: remove_item
DELETE FROM {p}digest_items WHERE notification_id = ?

-- name: remove_notification
DELETE FROM {p}notifications WHERE id = ?

-- name: remove_requests
DELETE FROM {p}requests WHERE (tenant, key) IN (SELECT tenant, key FROM {p}requests WHERE keep_until < ? LIMIT ?)

-- Notifications to a user, after one of them. The table is read through.
-- name: notifications_of_user
SELECT notification_id FROM {p}recipients WHERE notification_id > ? AND user_id = ? ORDER BY notification_id LIMIT ?

-- name: forget_attempts
DELETE FROM {p}attempts
WHERE delivery_id IN (SELECT id FROM {p}deliveries WHERE notification_id = ? AND user_id = ?)

-- name: forget_deliveries
DELETE FROM {p}deliveries WHERE notification_id = ? AND user_id = ?

-- name: forget_recipient
DELETE FROM {p}recipients WHERE notification_id = ? AND user_id = ?

-- name: is_open
SELECT 1 FROM {p}deliveries WHERE notification_id = ? AND state < 10 LIMIT 1

-- A notification without recipients, which is not that of an audience that is still submitted.
-- name: is_abandoned
SELECT 1 FROM {p}notifications AS n
WHERE id = ? AND cursor IS NULL AND NOT EXISTS (SELECT 1 FROM {p}recipients AS r WHERE r.notification_id = n.id)

-- name: forget_requests
DELETE FROM {p}requests WHERE notification_id IN (SELECT value FROM json_each(?))
