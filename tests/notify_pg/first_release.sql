-- What the first release created, before its table of the version had a key.
CREATE TABLE "{schema}"."notify_meta" (
    version integer NOT NULL,
    maintained timestamptz NOT NULL DEFAULT '-infinity',
    swept timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO "{schema}"."notify_meta" (version) VALUES (0);

-- One row for each user, locked by every transaction that appends: the order of commits is the order of ids.
-- Half of each page stays free, so that updates stay on their page and touch no index (HOT).
CREATE TABLE "{schema}"."notify_heads" (
    user_id text COLLATE "C" NOT NULL PRIMARY KEY,
    last_id bigint NOT NULL,
    prev_id bigint NOT NULL,
    step integer NOT NULL,
    total bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- The id holds the time, so a range of ids is a range of time, and retention drops partitions.
CREATE TABLE "{schema}"."notify_events" (
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
CREATE TABLE "{schema}"."notify_events_default" PARTITION OF "{schema}"."notify_events" DEFAULT;

CREATE TABLE "{schema}"."notify_keys" (
    user_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    prev bigint NOT NULL,
    PRIMARY KEY (user_id, key)
) WITH (fillfactor = 80);

-- Nonces of the attempts of the last minutes. A crash empties the table, and ends every attempt it guarded against.
CREATE UNLOGGED TABLE "{schema}"."notify_nonces" (
    nonce bigint NOT NULL PRIMARY KEY,
    born timestamptz NOT NULL
);

-- Other programs insert here too. The checks are necessary: one row that no log can hold would block all that follow.
CREATE TABLE "{schema}"."notify_outbox" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\x01-\x1f\x7f]'),
    type text NOT NULL CHECK (type ~ '^[A-Za-z0-9_.:-]{1,128}$' AND NOT type ^@ 'notify.'),
    data bytea NOT NULL CHECK (convert_from(data, 'UTF8')::json IS NOT NULL),
    micros bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    topic text CHECK (octet_length(topic) BETWEEN 1 AND 255),
    key text CHECK (octet_length(key) BETWEEN 1 AND 255),
    meta text CHECK (json_typeof(meta::json) = 'object')
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE UNLOGGED TABLE "{schema}"."notify_trackers" (
    tracker bigint NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE UNLOGGED TABLE "{schema}"."notify_presence" (
    user_id text COLLATE "C" NOT NULL,
    tracker bigint NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    metadata text NOT NULL,
    PRIMARY KEY (user_id, tracker, instance_id)
);
CREATE INDEX ON "{schema}"."notify_presence" (tracker);
-- Appends a batch of events, each to its user's log, in one statement of the client.
--
-- Each statement of the function has a snapshot of its own, taken after the locks of the statements before it were
-- acquired. Therefore a repeated key or nonce is seen even if it was committed a moment ago.
CREATE FUNCTION "{schema}"."notify_save_1"(
    p_nonce bigint,          -- of the batch: event number n has nonce p_nonce + n; NULL in the caller's transaction
    p_deadline bigint,       -- microseconds by this server's clock; nothing is stored after it
    p_again boolean,         -- whether an earlier attempt may have been executed
    p_wait integer,          -- milliseconds to wait for each lock
    p_max_len bigint,
    p_key_window bigint,     -- milliseconds
    p_users text[],
    p_micros bigint[],       -- this and the next two: one element if it is the same for all
    p_types text[],
    p_data bytea[],
    p_topics text[],
    p_keys text[],           -- NULL if no event has one
    p_metas text[],
    OUT clock bigint,        -- of this server, microseconds
    OUT ns integer[],        -- number, id and predecessor of each event that is stored
    OUT ids bigint[],
    OUT prevs bigint[],
    OUT known_ns integer[],  -- the same for each event whose key was used before
    OUT known_ids bigint[],
    OUT known_prevs bigint[]
) LANGUAGE plpgsql AS $save$
DECLARE
    v_taken boolean;
    v_new bigint[];
    v_heavy text[];
    v_chunk bigint := greatest(1, p_max_len / 10);
    v_key_floor bigint;
BEGIN
    clock := (date_part('epoch', clock_timestamp()) * 1000000)::bigint;
    IF clock >= p_deadline THEN
        RAISE EXCEPTION 'the attempt arrived after its deadline' USING ERRCODE = 'NT001', DETAIL = clock;
    END IF;

    IF p_nonce IS NOT NULL THEN
        PERFORM set_config('lock_timeout', p_wait::text, true);
        INSERT INTO "{schema}"."notify_nonces" (nonce, born) VALUES (p_nonce, clock_timestamp()) ON CONFLICT DO NOTHING;
        v_taken := NOT FOUND;
        IF v_taken OR p_again THEN
            SELECT array_agg((e.nonce - p_nonce)::integer), array_agg(e.id), array_agg(e.prev)
                INTO ns, ids, prevs
                FROM "{schema}"."notify_events" e
                WHERE e.user_id = ANY (p_users) AND e.id >= (p_deadline / 1000 - 600000) << 20
                    AND e.nonce > p_nonce AND e.nonce <= p_nonce + cardinality(p_users);
            IF v_taken OR ns IS NOT NULL THEN
                SELECT array_agg(d.n::integer), array_agg(k.id), array_agg(k.prev)
                    INTO known_ns, known_ids, known_prevs
                    FROM unnest(p_users, p_keys) WITH ORDINALITY AS d (user_id, key, n)
                    JOIN "{schema}"."notify_keys" k ON k.user_id = d.user_id AND k.key = d.key;
                RETURN;
            END IF;
        END IF;
    END IF;

    IF p_keys IS NOT NULL THEN
        INSERT INTO "{schema}"."notify_heads" AS h (user_id, last_id, prev_id, step, total)
            SELECT d.user_id, 0, 0, 0, 0 FROM (SELECT DISTINCT unnest(p_users)) AS d (user_id)
            ORDER BY d.user_id COLLATE "C"
            ON CONFLICT (user_id) DO UPDATE SET step = 0;
        v_key_floor := ((clock / 1000) - p_key_window) << 20;
        SELECT array_agg(d.n) INTO v_new
            FROM (
                SELECT u.user_id, u.key, u.n,
                    CASE WHEN u.key IS NULL THEN 1 ELSE row_number() OVER (PARTITION BY u.user_id, u.key ORDER BY u.n) END
                FROM unnest(p_users, p_keys) WITH ORDINALITY AS u (user_id, key, n)
            ) AS d (user_id, key, n, nth)
            LEFT JOIN "{schema}"."notify_keys" k ON k.user_id = d.user_id AND k.key = d.key AND k.id >= v_key_floor
            WHERE k.id IS NULL AND d.nth = 1;
        v_new := coalesce(v_new, '{}');
    END IF;

    WITH draft AS MATERIALIZED (
        SELECT d.user_id, coalesce(d.micros, p_micros[1]) AS micros, coalesce(d.type, p_types[1]) AS type,
            coalesce(d.data, p_data[1]) AS data, d.topic, d.key, d.meta, d.n,
            row_number() OVER (PARTITION BY d.user_id ORDER BY d.n) AS nth
        FROM unnest(p_users, p_micros, p_types, p_data, p_topics, p_keys, p_metas) WITH ORDINALITY
            AS d (user_id, micros, type, data, topic, key, meta, n)
        WHERE v_new IS NULL OR d.n = ANY (v_new)
    ), head AS (
        INSERT INTO "{schema}"."notify_heads" AS h (user_id, last_id, prev_id, step, total)
        SELECT d.user_id, (floor(date_part('epoch', clock_timestamp()) * 1000)::bigint << 20) + count(*) - 1,
            0, count(*), count(*)
        FROM draft d GROUP BY d.user_id ORDER BY d.user_id COLLATE "C"
        ON CONFLICT (user_id) DO UPDATE SET
            prev_id = h.last_id,
            last_id = greatest(h.last_id, (floor(date_part('epoch', clock_timestamp()) * 1000)::bigint << 20) - 1)
                + excluded.step,
            step = excluded.step,
            total = h.total + excluded.step
        RETURNING h.user_id, h.last_id, h.prev_id, h.step, h.total
    ), placed AS MATERIALIZED (
        SELECT d.*, h.last_id - h.step + d.nth AS id,
            CASE WHEN d.nth = 1 THEN h.prev_id ELSE h.last_id - h.step + d.nth - 1 END AS prev,
            d.nth = 1 AND h.total > p_max_len AND h.total / v_chunk > (h.total - h.step) / v_chunk AS heavy
        FROM draft d JOIN head h ON h.user_id = d.user_id
    ), stored AS (
        INSERT INTO "{schema}"."notify_events" (user_id, id, prev, micros, nonce, type, data, topic, key, meta)
        SELECT p.user_id, p.id, p.prev, p.micros, p_nonce + p.n, p.type, p.data, p.topic, p.key, p.meta FROM placed p
    ), claimed AS (
        INSERT INTO "{schema}"."notify_keys" AS k (user_id, key, id, prev)
        SELECT p.user_id, p.key, p.id, p.prev FROM placed p WHERE p.key IS NOT NULL
        ON CONFLICT (user_id, key) DO UPDATE SET id = excluded.id, prev = excluded.prev
    )
    SELECT array_agg(p.n::integer), array_agg(p.id), array_agg(p.prev),
            array_agg(p.user_id) FILTER (WHERE p.heavy)
        INTO ns, ids, prevs, v_heavy
        FROM placed p;

    IF p_keys IS NOT NULL AND cardinality(v_new) < cardinality(p_users) THEN
        -- now the keys that occur twice within this batch are known too
        SELECT array_agg(d.n::integer), array_agg(k.id), array_agg(k.prev)
            INTO known_ns, known_ids, known_prevs
            FROM unnest(p_users, p_keys) WITH ORDINALITY AS d (user_id, key, n)
            JOIN "{schema}"."notify_keys" k ON k.user_id = d.user_id AND k.key = d.key
            WHERE d.n <> ALL (v_new);
    END IF;

    IF v_heavy IS NOT NULL THEN
        DELETE FROM "{schema}"."notify_events" e
            USING (
                SELECT u, (
                    SELECT x.id FROM "{schema}"."notify_events" x WHERE x.user_id = u ORDER BY x.id DESC OFFSET p_max_len - 1 LIMIT 1
                ) FROM unnest(v_heavy) AS u
            ) AS b (user_id, first_kept)
            WHERE e.user_id = b.user_id AND e.id < b.first_kept;
    END IF;

    IF (date_part('epoch', clock_timestamp()) * 1000000)::bigint >= p_deadline THEN
        RAISE EXCEPTION 'the attempt passed its deadline while it waited' USING ERRCODE = 'NT001', DETAIL = clock;
    END IF;
END
$save$;
-- Moves what committed transactions have left in the outbox to the logs, in one transaction, in order.
--
-- One relay works at a time, since a second one could overtake the first. It does not wait, but moves nothing.
CREATE FUNCTION "{schema}"."notify_relay_1"(
    p_lock bigint,
    p_limit integer,
    p_max_len bigint,
    p_key_window bigint,
    OUT moved integer,
    OUT users text[]
) LANGUAGE plpgsql AS $relay$
DECLARE
    v_micros bigint[];
    v_types text[];
    v_data bytea[];
    v_topics text[];
    v_keys text[];
    v_metas text[];
BEGIN
    moved := 0;
    IF NOT pg_try_advisory_xact_lock(p_lock) THEN
        RETURN;
    END IF;
    WITH taken AS (
        DELETE FROM "{schema}"."notify_outbox" o WHERE o.id IN (
            SELECT x.id FROM "{schema}"."notify_outbox" x ORDER BY x.id LIMIT p_limit FOR UPDATE SKIP LOCKED
        ) RETURNING o.*
    )
    SELECT count(*), array_agg(t.user_id ORDER BY t.id), array_agg(t.micros ORDER BY t.id),
            array_agg(t.type ORDER BY t.id), array_agg(t.data ORDER BY t.id), array_agg(t.topic ORDER BY t.id),
            CASE WHEN count(t.key) > 0 THEN array_agg(t.key ORDER BY t.id) END, array_agg(t.meta ORDER BY t.id)
        INTO moved, users, v_micros, v_types, v_data, v_topics, v_keys, v_metas
        FROM taken t;
    IF moved > 0 THEN
        PERFORM "{schema}"."notify_save_1"(NULL, NULL, false, 0, p_max_len, p_key_window,
            users, v_micros, v_types, v_data, v_topics, v_keys, v_metas);
    END IF;
END
$relay$;;
UPDATE "{schema}"."notify_meta" SET version = 1;
