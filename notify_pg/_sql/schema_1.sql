-- Everything here may be run again: it creates what is missing, and changes nothing else.

-- A partitioned table cannot be created while the database's own tablespace is named as the default one.
SELECT set_config('default_tablespace', '', true) FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datname = current_database() AND t.spcname = current_setting('default_tablespace');

CREATE TABLE IF NOT EXISTS {meta} (
    version integer NOT NULL PRIMARY KEY,
    maintained timestamptz NOT NULL DEFAULT '-infinity',
    swept timestamptz NOT NULL DEFAULT '-infinity'
);
-- The first release created it without a key, and then its row could not be updated where all tables are published.
DO $key$
DECLARE
    v_version integer;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = '{meta}'::regclass AND indisprimary) THEN
        SELECT max(version) INTO v_version FROM {meta};
        IF (SELECT count(*) FROM {meta}) > 1 THEN
            TRUNCATE {meta};
            INSERT INTO {meta} (version) VALUES (v_version);
        END IF;
        ALTER TABLE {meta} ADD PRIMARY KEY (version);
    END IF;
END
$key$;

-- One row for each user, locked by every transaction that appends: the order of commits is the order of ids.
-- Half of each page stays free, so that updates stay on their page and touch no index (HOT).
CREATE TABLE IF NOT EXISTS {heads} (
    user_id text COLLATE "C" NOT NULL PRIMARY KEY,
    last_id bigint NOT NULL,
    prev_id bigint NOT NULL,
    step integer NOT NULL,
    total bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- The id holds the time, so a range of ids is a range of time, and retention drops partitions.
CREATE TABLE IF NOT EXISTS {events} (
    user_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    prev bigint NOT NULL,
    micros bigint NOT NULL,
    nonce bigint,
    type text NOT NULL,
    data bytea NOT NULL,
    topic text,
    key text,
    meta text,
    PRIMARY KEY (user_id, id)
) PARTITION BY RANGE (id);
CREATE TABLE IF NOT EXISTS {events_default} PARTITION OF {events} DEFAULT;

CREATE TABLE IF NOT EXISTS {keys} (
    user_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    prev bigint NOT NULL,
    PRIMARY KEY (user_id, key)
) WITH (fillfactor = 80);

-- Nonces of the attempts of the last minutes. A crash empties the table, and ends every attempt it guarded against.
CREATE UNLOGGED TABLE IF NOT EXISTS {nonces} (
    nonce bigint NOT NULL PRIMARY KEY,
    born timestamptz NOT NULL
);

-- Other programs insert here too. What these checks let through and no log may hold, the relay sets aside.
CREATE TABLE IF NOT EXISTS {outbox} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\x01-\x1f\x7f-\x9f]'),
    type text NOT NULL CHECK (type ~ '^[A-Za-z0-9_.:-]{1,128}$' AND NOT type ^@ 'notify.'),
    data bytea NOT NULL CHECK (convert_from(data, 'UTF8')::json IS NOT NULL),
    micros bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        CHECK (micros BETWEEN 0 AND 253402300799999999),
    topic text CHECK (octet_length(topic) BETWEEN 1 AND 255 AND topic !~ '[\x01-\x1f\x7f-\x9f]'),
    key text CHECK (octet_length(key) BETWEEN 1 AND 255 AND key !~ '[\x01-\x1f\x7f-\x9f]'),
    meta text CHECK (json_typeof(meta::json) = 'object' AND CASE WHEN strpos(meta, '\u0000') > 0 THEN true  -- not in jsonb
        ELSE NOT jsonb_path_exists(meta::jsonb, 'strict $.* ? (@.type() != "string")') END)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Rows of the outbox that no log may hold, with the reason; they stay until they are removed by hand.
CREATE TABLE IF NOT EXISTS {outbox_dead} (
    id bigint NOT NULL PRIMARY KEY,
    reason text NOT NULL,
    set_aside timestamptz NOT NULL DEFAULT now(),
    user_id text NOT NULL,
    type text NOT NULL,
    data bytea NOT NULL,
    micros bigint NOT NULL,
    topic text,
    key text,
    meta text
);

CREATE UNLOGGED TABLE IF NOT EXISTS {trackers} (
    tracker bigint NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE UNLOGGED TABLE IF NOT EXISTS {presence} (
    user_id text COLLATE "C" NOT NULL,
    tracker bigint NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    metadata text NOT NULL,
    PRIMARY KEY (user_id, tracker, instance_id)
);
CREATE INDEX IF NOT EXISTS {presence_index} ON {presence} (tracker);
