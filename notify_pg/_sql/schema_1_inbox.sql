-- The inboxes: what was sent and is listed. A transaction that writes one of these rows has locked the user's row of heads.

-- An event that is listed, with a copy of its contents, since the log is kept for a shorter time. No index on the states:
-- with 1000 items, what it costs a mark of them all is more than it saves.
CREATE TABLE IF NOT EXISTS {items} (
    user_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    log text COLLATE "C" NOT NULL,  -- empty for the user's own
    group_name text COLLATE "C",
    seen_at bigint,                 -- this and the next three: milliseconds since 1970
    read_at bigint,
    dismissed_at bigint,
    expires_at bigint,
    micros bigint NOT NULL,
    type text NOT NULL,
    data bytea NOT NULL,
    meta text,
    PRIMARY KEY (user_id, id, log)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX IF NOT EXISTS {items_group_index} ON {items} (user_id, group_name, log)
    WHERE group_name IS NOT NULL;
CREATE INDEX IF NOT EXISTS {items_expiry_index} ON {items} (user_id, expires_at) WHERE expires_at IS NOT NULL;

-- One row for each user who has an inbox. No item is older than `oldest`, none expires before `expiry`; there may be
-- none that is so old, or expires so early. Every item before the id `kept_before` is unread: where the retention keeps
-- unread items, nothing looks at them again.
CREATE TABLE IF NOT EXISTS {inboxes} (
    user_id text COLLATE "C" NOT NULL PRIMARY KEY,
    position bigint NOT NULL,       -- id of the last event that was applied
    kept integer NOT NULL,          -- items; the next three: those of them that are not dismissed, unseen, unread
    total integer NOT NULL,
    unseen integer NOT NULL,
    unread integer NOT NULL,
    oldest bigint,
    expiry bigint,
    kept_before bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX IF NOT EXISTS {inboxes_oldest_index} ON {inboxes} (oldest, user_id) WHERE oldest IS NOT NULL;
CREATE INDEX IF NOT EXISTS {inboxes_expiry_index} ON {inboxes} (expiry, user_id) WHERE expiry IS NOT NULL;

-- The topics that users follow, and the sessions that were merged into their inboxes.
CREATE TABLE IF NOT EXISTS {follows} (
    user_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    since bigint NOT NULL,
    position bigint NOT NULL,       -- in the topic's log, up to which its items were copied
    is_merged boolean NOT NULL,
    PRIMARY KEY (user_id, topic)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS {follows_topic_index} ON {follows} (topic, user_id) WHERE NOT is_merged;

-- The items that a change has affected, next to the nonce of its attempt: where the reply is lost, the next one returns them.
DO $changed$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{nonces}'::regclass AND attname = 'changed_logs') THEN
        ALTER TABLE {nonces} ADD COLUMN changed_ids bigint[], ADD COLUMN changed_logs text[];
    END IF;
END
$changed$;
