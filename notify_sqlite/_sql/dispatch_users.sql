-- What a store of deliveries keeps of users and providers, beside dispatch.sql.

-- name: create_preferences
CREATE TABLE IF NOT EXISTS {p}preferences (
    user_id TEXT PRIMARY KEY NOT NULL,
    document BLOB NOT NULL
) WITHOUT ROWID

-- name: create_consents
CREATE TABLE IF NOT EXISTS {p}consents (
    number INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    author TEXT NOT NULL,
    source TEXT NOT NULL,
    patch BLOB NOT NULL
)

-- name: create_consents_of_user
CREATE INDEX IF NOT EXISTS {p}consents_of_user ON {p}consents (user_id)

-- name: create_endpoints
CREATE TABLE IF NOT EXISTS {p}endpoints (
    id TEXT PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    kind TEXT NOT NULL,
    meta TEXT NOT NULL,
    session TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    last_success_at INTEGER,
    failures INTEGER NOT NULL,
    failing_since INTEGER,
    retired_at INTEGER,
    reason TEXT NOT NULL
) WITHOUT ROWID

-- name: create_endpoints_of_user
CREATE INDEX IF NOT EXISTS {p}endpoints_of_user ON {p}endpoints (user_id, channel, id)

-- name: create_endpoints_of_session
CREATE INDEX IF NOT EXISTS {p}endpoints_of_session ON {p}endpoints (session) WHERE user_id = '' AND retired_at IS NULL

-- name: create_endpoints_retired
CREATE INDEX IF NOT EXISTS {p}endpoints_retired ON {p}endpoints (retired_at) WHERE retired_at IS NOT NULL

-- name: create_cap_counts
CREATE TABLE IF NOT EXISTS {p}cap_counts (
    bucket TEXT NOT NULL,
    notification_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (bucket, notification_id)
) WITHOUT ROWID

-- name: create_cap_counts_expiring
CREATE INDEX IF NOT EXISTS {p}cap_counts_expiring ON {p}cap_counts (expires_at)

-- name: create_cap_verdicts
CREATE TABLE IF NOT EXISTS {p}cap_verdicts (
    notification_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    verdict INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (notification_id, user_id)
) WITHOUT ROWID

-- name: create_cap_verdicts_expiring
CREATE INDEX IF NOT EXISTS {p}cap_verdicts_expiring ON {p}cap_verdicts (expires_at)

-- name: create_gates
CREATE TABLE IF NOT EXISTS {p}gates (
    gate TEXT PRIMARY KEY NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID

-- name: create_gates_opening
CREATE INDEX IF NOT EXISTS {p}gates_opening ON {p}gates (until)

-- name: get_preferences
SELECT user_id, document FROM {p}preferences WHERE user_id IN (SELECT value FROM json_each(?))

-- name: set_preferences
INSERT OR REPLACE INTO {p}preferences (user_id, document) VALUES (?, ?)

-- name: add_consent
INSERT INTO {p}consents (user_id, at, author, source, patch) VALUES (?, ?, ?, ?, ?)

-- name: get_consents
SELECT at, author, source, patch FROM {p}consents WHERE user_id = ? ORDER BY number

-- name: set_endpoint
INSERT INTO {p}endpoints ({endpoint}) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, NULL, 0, NULL, NULL, '')
ON CONFLICT (id) DO UPDATE SET
    user_id = excluded.user_id, meta = excluded.meta, session = excluded.session, generation = generation + 1,
    last_seen_at = excluded.last_seen_at, failures = 0, failing_since = NULL, retired_at = NULL, reason = ''

-- name: get_endpoint
SELECT {endpoint} FROM {p}endpoints WHERE id = ?

-- name: endpoints_of
SELECT {endpoint} FROM {p}endpoints
WHERE user_id IN (SELECT value FROM json_each(?)) AND (? OR retired_at IS NULL) ORDER BY channel, id

-- name: endpoints_of_session
SELECT {endpoint} FROM {p}endpoints WHERE session = ? AND user_id = '' AND retired_at IS NULL ORDER BY channel, id

-- name: retire
UPDATE {p}endpoints SET retired_at = ?, reason = ? WHERE id = ? AND retired_at IS NULL AND ? IN (0, generation)

-- name: note_success
UPDATE {p}endpoints SET failures = 0, failing_since = NULL, last_success_at = ? WHERE id = ? AND generation = ?

-- name: note_refusal
UPDATE {p}endpoints SET failures = failures + 1, failing_since = coalesce(failing_since, ?)
WHERE id = ? AND generation = ?

-- name: get_verdict
SELECT verdict FROM {p}cap_verdicts WHERE notification_id = ? AND user_id = ?

-- name: set_verdict
INSERT OR REPLACE INTO {p}cap_verdicts (notification_id, user_id, verdict, expires_at) VALUES (?, ?, ?, ?)

-- name: remove_verdict
DELETE FROM {p}cap_verdicts WHERE notification_id = ? AND user_id = ?

-- name: get_count
SELECT count(*) FROM {p}cap_counts WHERE bucket = ? AND expires_at > ?

-- name: count_up
INSERT OR REPLACE INTO {p}cap_counts (bucket, notification_id, expires_at) VALUES (?, ?, ?)

-- name: uncount
DELETE FROM {p}cap_counts WHERE bucket = ? AND notification_id = ?

-- name: close_gate
INSERT INTO {p}gates (gate, until) VALUES (?, ?)
ON CONFLICT (gate) DO UPDATE SET until = max(until, excluded.until)

-- name: closed_gates
SELECT gate, until FROM {p}gates WHERE until > ?

-- name: remove_counts
DELETE FROM {p}cap_counts WHERE (bucket, notification_id) IN (
    SELECT bucket, notification_id FROM {p}cap_counts WHERE expires_at <= ? LIMIT ?
)

-- name: remove_verdicts
DELETE FROM {p}cap_verdicts WHERE (notification_id, user_id) IN (
    SELECT notification_id, user_id FROM {p}cap_verdicts WHERE expires_at <= ? LIMIT ?
)

-- name: remove_endpoints
DELETE FROM {p}endpoints WHERE id IN (SELECT id FROM {p}endpoints WHERE retired_at < ? LIMIT ?)

-- name: remove_session_endpoints
DELETE FROM {p}endpoints WHERE id IN (
    SELECT id FROM {p}endpoints WHERE session > '' AND user_id = '' AND retired_at IS NULL AND last_seen_at < ? LIMIT ?
)

-- name: remove_gates
DELETE FROM {p}gates WHERE gate IN (SELECT gate FROM {p}gates WHERE until < ? LIMIT ?)

-- name: forget_preferences
DELETE FROM {p}preferences WHERE user_id = ?

-- name: forget_consents
DELETE FROM {p}consents WHERE user_id = ?

-- name: forget_endpoints
DELETE FROM {p}endpoints WHERE user_id = ?

-- name: forget_verdicts
DELETE FROM {p}cap_verdicts WHERE user_id = ?

-- The buckets of a user share a prefix, given twice, that ends with a slash; 0 is the next character.
-- name: forget_counts
DELETE FROM {p}cap_counts WHERE bucket >= ? AND bucket < rtrim(?, '/') || '0'
