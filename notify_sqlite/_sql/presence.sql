-- What presence trackers keep. {p} is the table prefix. Statements are separated by a line that names the next one.
-- Parameters are plain ?: early releases of Python 3.12 warn of numbered ones (?1) bound from a sequence.

-- name: create_schema
CREATE TABLE IF NOT EXISTS {p}schema (
    part TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID

-- name: start_schema
INSERT OR IGNORE INTO {p}schema (part, version) VALUES ('presence', 1)

-- name: version
SELECT max(version) FROM {p}schema WHERE part = 'presence'

-- name: create_leases
CREATE TABLE IF NOT EXISTS {p}leases (
    lease TEXT PRIMARY KEY NOT NULL,
    expires INTEGER NOT NULL,
    ttl INTEGER NOT NULL
) WITHOUT ROWID

-- name: create_presence
CREATE TABLE IF NOT EXISTS {p}presence (
    lease TEXT NOT NULL,
    user TEXT NOT NULL,
    instance TEXT NOT NULL,
    meta TEXT,
    PRIMARY KEY (lease, user, instance)
) WITHOUT ROWID

-- name: create_presence_by_user
CREATE INDEX IF NOT EXISTS {p}presence_by_user ON {p}presence (user)

-- name: renew_lease
INSERT INTO {p}leases (lease, expires, ttl) VALUES (?, ?, ?)
ON CONFLICT (lease) DO UPDATE SET expires = excluded.expires, ttl = excluded.ttl

-- name: set_presence
INSERT OR REPLACE INTO {p}presence (lease, user, instance, meta) VALUES (?, ?, ?, ?)

-- name: delete_presence
DELETE FROM {p}presence WHERE lease = ? AND user = ? AND instance = ?

-- name: delete_user
DELETE FROM {p}presence WHERE lease = ? AND user = ?

-- name: count_presence
SELECT count(*) FROM {p}presence WHERE lease = ?

-- name: any_lease
SELECT 1 FROM {p}leases LIMIT 1

-- name: locate
SELECT p.instance, p.meta
FROM {p}presence AS p JOIN {p}leases AS l ON l.lease = p.lease
WHERE p.user = ? AND p.lease <> ? AND l.expires - ? BETWEEN 1 AND l.ttl

-- name: dead_leases
SELECT lease FROM {p}leases WHERE expires - ? NOT BETWEEN -ttl AND 2 * ttl LIMIT 20

-- name: presence_of_lease
SELECT lease, user, instance FROM {p}presence WHERE lease = ? LIMIT ?

-- name: delete_lease
DELETE FROM {p}leases WHERE lease = ?
