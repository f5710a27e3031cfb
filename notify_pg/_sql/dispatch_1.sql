-- What a store of deliveries keeps. Instants are milliseconds since 1970. Everything here may be run again: it creates
-- what is missing, and changes nothing else.
CREATE TABLE IF NOT EXISTS {dispatch_meta} (version integer NOT NULL PRIMARY KEY);

CREATE TABLE IF NOT EXISTS {notifications} (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    type text NOT NULL,
    data bytea NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    digest_id text,
    meta bytea NOT NULL,
    cursor text
);
CREATE INDEX IF NOT EXISTS {notifications_age_index} ON {notifications} (created_at);

CREATE TABLE IF NOT EXISTS {recipients} (
    notification_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    decisions bytea NOT NULL,
    address bytea NOT NULL,
    PRIMARY KEY (notification_id, user_id)
);

-- `begun` is the fence with which sending began last. `was` is the state before the latest move, since an UPDATE
-- returns only the new version of a row. States below 10 are open; the index by due time contains only these. A claimed
-- row keeps its `due_at`, so that neither a claim nor the step to `SENDING` writes an index; queries return the end of
-- the lease in its place. Numbers come first, and columns that are mostly NULL come last, since PostgreSQL knows where
-- a column is, without reading those before it, only if these have the same length in every row.
CREATE TABLE IF NOT EXISTS {deliveries} (
    updated_at bigint NOT NULL,
    lease_until bigint NOT NULL DEFAULT 0,
    delay double precision NOT NULL,
    fence integer NOT NULL,
    attempts integer NOT NULL,
    begun integer NOT NULL DEFAULT 0,
    priority integer NOT NULL,
    state smallint NOT NULL,
    was smallint NOT NULL DEFAULT 0,
    -- 0: open; 1: handed over; from 20 on, the state itself. Indexes use it instead of `state`:
    -- an index that names `state`, even in its condition, would make each step write all indexes of the row.
    phase smallint NOT NULL GENERATED ALWAYS AS (
        CASE WHEN state < 10 THEN 0 WHEN state < 20 THEN 1 ELSE state END
    ) STORED,
    due_at bigint,
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    notification_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    after_channel text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    provider_id text NOT NULL,
    expires_at bigint,
    opened_at bigint,
    clicked_at bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
-- By channel, so that no call reads rows of other channels, however many wait.
CREATE INDEX IF NOT EXISTS {deliveries_channel_index} ON {deliveries} (priority, channel, due_at) WHERE phase = 0;
CREATE INDEX IF NOT EXISTS {deliveries_recipient_index} ON {deliveries} (notification_id, user_id);
CREATE INDEX IF NOT EXISTS {deliveries_user_index} ON {deliveries} (user_id) WHERE phase = 0;
-- Mostly empty, so no row has to be read to find out that nothing waits for a channel.
CREATE INDEX IF NOT EXISTS {deliveries_after_index} ON {deliveries} (notification_id, user_id)
    WHERE phase = 0 AND after_channel <> '';
CREATE INDEX IF NOT EXISTS {deliveries_stuck_index} ON {deliveries} (phase, id) WHERE phase >= 20;
CREATE INDEX IF NOT EXISTS {deliveries_parked_index} ON {deliveries} (channel, user_id) WHERE phase = 27;

CREATE TABLE IF NOT EXISTS {attempts} (
    delivery_id text COLLATE "C" NOT NULL,
    fence integer NOT NULL,
    at bigint NOT NULL,
    state smallint NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    is_late boolean NOT NULL,
    PRIMARY KEY (delivery_id, fence)
);

CREATE TABLE IF NOT EXISTS {requests} (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    notification_id text NOT NULL,
    keep_until bigint,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX IF NOT EXISTS {requests_index} ON {requests} (keep_until);

-- At most one digest of a key is open.
CREATE TABLE IF NOT EXISTS {digests} (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    key text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    is_open boolean NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    channels text NOT NULL,
    opened_at bigint NOT NULL,
    closes_at bigint NOT NULL,
    due_at bigint NOT NULL,
    count integer NOT NULL,
    UNIQUE (key, generation)
);
CREATE UNIQUE INDEX IF NOT EXISTS {digests_open_index} ON {digests} (key) WHERE is_open;
CREATE INDEX IF NOT EXISTS {digests_due_index} ON {digests} (due_at) WHERE is_open;
CREATE INDEX IF NOT EXISTS {digests_user_index} ON {digests} (user_id) WHERE is_open;

-- A notification is in at most one digest of a key, open or closed.
CREATE TABLE IF NOT EXISTS {digest_items} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text COLLATE "C" NOT NULL,
    notification_id text COLLATE "C" NOT NULL,
    digest_id text COLLATE "C" NOT NULL,
    joined_at bigint NOT NULL,
    is_cancelled boolean NOT NULL DEFAULT false,
    UNIQUE (notification_id, key)
);
CREATE INDEX IF NOT EXISTS {digest_items_index} ON {digest_items} (digest_id, number);

CREATE TABLE IF NOT EXISTS {preferences} (
    user_id text COLLATE "C" NOT NULL PRIMARY KEY,
    document bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS {consents} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    author text NOT NULL,
    source text NOT NULL,
    patch bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS {consents_index} ON {consents} (user_id);

CREATE TABLE IF NOT EXISTS {endpoints} (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    address text NOT NULL,
    kind text NOT NULL,
    meta text NOT NULL,
    session text NOT NULL,
    generation integer NOT NULL,
    created_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    last_success_at bigint,
    failures integer NOT NULL,
    failing_since bigint,
    retired_at bigint,
    reason text NOT NULL
);
CREATE INDEX IF NOT EXISTS {endpoints_index} ON {endpoints} (user_id, channel, id);
CREATE INDEX IF NOT EXISTS {endpoints_session_index} ON {endpoints} (session) WHERE user_id = '' AND retired_at IS NULL;
CREATE INDEX IF NOT EXISTS {endpoints_retired_index} ON {endpoints} (retired_at) WHERE retired_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS {cap_counts} (
    bucket text COLLATE "C" NOT NULL,
    notification_id text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (bucket, notification_id)
);
CREATE INDEX IF NOT EXISTS {cap_counts_index} ON {cap_counts} (expires_at);
CREATE TABLE IF NOT EXISTS {cap_verdicts} (
    notification_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    verdict integer NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (notification_id, user_id)
);
CREATE INDEX IF NOT EXISTS {cap_verdicts_index} ON {cap_verdicts} (expires_at);

CREATE TABLE IF NOT EXISTS {gates} (
    gate text COLLATE "C" NOT NULL PRIMARY KEY,
    until bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS {gates_index} ON {gates} (until);
