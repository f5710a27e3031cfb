-- Appends a batch of events, each to its user's log, in one statement of the client.
--
-- Each statement of the function has a snapshot of its own, taken after the locks of the statements before it were
-- acquired. Therefore a repeated key or nonce is seen even if it was committed a moment ago.
CREATE OR REPLACE FUNCTION {save}(
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
        INSERT INTO {nonces} (nonce, born) VALUES (p_nonce, clock_timestamp()) ON CONFLICT DO NOTHING;
        v_taken := NOT FOUND;
        IF v_taken OR p_again THEN
            SELECT array_agg((e.nonce - p_nonce)::integer), array_agg(e.id), array_agg(e.prev)
                INTO ns, ids, prevs
                FROM {events} e
                WHERE e.user_id = ANY (p_users) AND e.id >= (p_deadline / 1000 - 600000) << 20
                    AND e.nonce > p_nonce AND e.nonce <= p_nonce + cardinality(p_users);
            IF v_taken OR ns IS NOT NULL THEN
                SELECT array_agg(d.n::integer), array_agg(k.id), array_agg(k.prev)
                    INTO known_ns, known_ids, known_prevs
                    FROM unnest(p_users, p_keys) WITH ORDINALITY AS d (user_id, key, n)
                    JOIN {keys} k ON k.user_id = d.user_id AND k.key = d.key;
                RETURN;
            END IF;
        END IF;
    END IF;

    IF p_keys IS NOT NULL THEN
        INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total)
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
            LEFT JOIN {keys} k ON k.user_id = d.user_id AND k.key = d.key AND k.id >= v_key_floor
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
        INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total)
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
        INSERT INTO {events} (user_id, id, prev, micros, nonce, type, data, topic, key, meta)
        SELECT p.user_id, p.id, p.prev, p.micros, p_nonce + p.n, p.type, p.data, p.topic, p.key, p.meta FROM placed p
    ), claimed AS (
        INSERT INTO {keys} AS k (user_id, key, id, prev)
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
            JOIN {keys} k ON k.user_id = d.user_id AND k.key = d.key
            WHERE d.n <> ALL (v_new);
    END IF;

    IF v_heavy IS NOT NULL THEN
        DELETE FROM {events} e
            USING (
                SELECT u, (
                    SELECT x.id FROM {events} x WHERE x.user_id = u ORDER BY x.id DESC OFFSET p_max_len - 1 LIMIT 1
                ) FROM unnest(v_heavy) AS u
            ) AS b (user_id, first_kept)
            WHERE e.user_id = b.user_id AND e.id < b.first_kept;
    END IF;

    IF (date_part('epoch', clock_timestamp()) * 1000000)::bigint >= p_deadline THEN
        RAISE EXCEPTION 'the attempt passed its deadline while it waited' USING ERRCODE = 'NT001', DETAIL = clock;
    END IF;
END
$save$;
