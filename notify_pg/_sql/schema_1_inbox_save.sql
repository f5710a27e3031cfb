-- As the function that appends a batch, for one in which events are listed or change an inbox: applies these as well.
CREATE OR REPLACE FUNCTION {save_inbox}(
    p_nonce bigint,          -- this and the following up to the metas: as there
    p_deadline bigint,
    p_again boolean,
    p_wait integer,
    p_max_len bigint,
    p_key_window bigint,
    p_users text[],
    p_micros bigint[],
    p_types text[],
    p_data bytea[],
    p_topics text[],
    p_keys text[],
    p_metas text[],
    p_expiries bigint[],     -- of each item, in milliseconds, -1 for none; NULL for other events
    p_changes text[],        -- of each event that changes an inbox; NULL if there is none
    p_max_items bigint,
    p_max_age bigint,        -- milliseconds; NULL: without a limit
    p_keep_unread boolean,
    OUT clock bigint,
    OUT ns integer[],
    OUT ids bigint[],
    OUT prevs bigint[],
    OUT known_ns integer[],
    OUT known_ids bigint[],
    OUT known_prevs bigint[]
) LANGUAGE plpgsql
SET enable_seqscan = off     -- this and the next: a plan for the few rows of the beginning would be kept
SET enable_bitmapscan = off
AS $save_inbox$
DECLARE
    v_count integer := cardinality(p_users);
    v_ids bigint[];
    v_is_ahead boolean;
    v_floor bigint;
    v_now bigint;
    v_horizon bigint;
    v_first integer := 1;
    v_stops integer[] := '{}';
    k integer;
BEGIN
    -- No id at or below one that the inbox has seen, even if the log was lost. Logs are locked in the order of saves.
    v_floor := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint << 20;
    SELECT bool_or((SELECT b.position FROM {inboxes} b WHERE b.user_id = u.user_id) >= v_floor)
        INTO v_is_ahead FROM unnest(p_users) AS u (user_id);
    IF v_is_ahead THEN  -- of the clock; usually the log is so as well
        PERFORM set_config('lock_timeout', p_wait::text, true) WHERE p_nonce IS NOT NULL;
        INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total)
            SELECT b.user_id, b.position, 0, 0, 0 FROM {inboxes} b
            LEFT JOIN {heads} x ON x.user_id = b.user_id
            WHERE b.user_id = ANY (p_users) AND b.position > coalesce(x.last_id, 0)
            ORDER BY b.user_id
            ON CONFLICT (user_id) DO UPDATE SET last_id = greatest(h.last_id, excluded.last_id);
    END IF;

    SELECT s.* INTO clock, ns, ids, prevs, known_ns, known_ids, known_prevs
        FROM {save}(p_nonce, p_deadline, p_again, p_wait, p_max_len, p_key_window,
            p_users, p_micros, p_types, p_data, p_topics, p_keys, p_metas) AS s;
    IF ns IS NULL THEN
        RETURN;
    END IF;
    -- An earlier attempt that has stored the batch has applied it, too. Then these events are not of this transaction. The
    -- inbox does not tell: a change of a user without one leaves none, and what came after it must not be undone.
    IF p_again OR pg_current_xact_id_if_assigned() IS NULL THEN
        PERFORM FROM unnest(ns, ids) AS s (n, id) JOIN {events} e ON e.user_id = p_users[s.n] AND e.id = s.id
            WHERE e.xmin = pg_current_xact_id_if_assigned()::xid;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_now := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon := coalesce((v_now - p_max_age) << 20, 0);

    IF v_count = 1 AND p_changes IS NULL THEN
        PERFORM {inbox_item}(p_users[1], ids[1], p_micros[1], p_types[1], p_data[1], p_topics[1], p_metas[1],
            p_expiries[1], v_now, v_horizon, p_max_items, p_keep_unread);
    ELSE
        v_ids := array_fill(NULL::bigint, ARRAY[v_count]);
        FOR k IN 1 .. cardinality(ns) LOOP
            v_ids[ns[k]] := ids[k];
        END LOOP;
        IF p_changes IS NOT NULL OR p_topics IS NOT NULL THEN
            -- Applied one by one: changes, and, where the inbox may be full, items of a group that have expired by now. Such
            -- an item only removes the one before it in its group, but that one has already displaced another.
            SELECT coalesce(array_agg(d.n::integer ORDER BY d.n), '{}') INTO v_stops
                FROM unnest(p_users, p_changes, p_topics, p_expiries) WITH ORDINALITY AS d (user_id, change, topic, expiry, n)
                WHERE d.change IS NOT NULL OR (d.topic IS NOT NULL AND d.expiry BETWEEN 0 AND v_now
                    AND (p_changes IS NOT NULL OR p_max_items < v_count + coalesce(
                        (SELECT b.kept FROM {inboxes} b WHERE b.user_id = d.user_id), 0)));
        END IF;
        FOREACH k IN ARRAY v_stops LOOP
            CONTINUE WHEN v_ids[k] IS NULL;
            IF k > v_first THEN
                PERFORM {inbox_items}(v_first, k - 1, p_users, v_ids, p_micros, p_types, p_data, p_topics, p_metas,
                    p_expiries, v_now, v_horizon, p_max_items, p_keep_unread);
            END IF;
            IF p_changes[k] IS NULL THEN
                PERFORM {inbox_item}(p_users[k], v_ids[k], coalesce(p_micros[k], p_micros[1]),
                    coalesce(p_types[k], p_types[1]), coalesce(p_data[k], p_data[1]), p_topics[k], p_metas[k],
                    p_expiries[k], v_now, v_horizon, p_max_items, p_keep_unread);
            ELSE
                PERFORM {inbox_apply}(p_users[k], v_ids[k], p_changes[k]::jsonb, v_now, v_horizon, p_max_items,
                    p_keep_unread);
            END IF;
            v_first := k + 1;
        END LOOP;
        IF v_first <= v_count THEN
            PERFORM {inbox_items}(v_first, v_count, p_users, v_ids, p_micros, p_types, p_data, p_topics, p_metas,
                p_expiries, v_now, v_horizon, p_max_items, p_keep_unread);
        END IF;
    END IF;

    IF (date_part('epoch', clock_timestamp()) * 1000000)::bigint >= p_deadline THEN
        RAISE EXCEPTION 'the attempt passed its deadline while it waited' USING ERRCODE = 'NT001', DETAIL = clock;
    END IF;
END
$save_inbox$;

-- Applies a change to one user's inbox and appends it to the log; appends nothing if it changes nothing.
CREATE OR REPLACE FUNCTION {change_inbox}(
    p_nonce bigint,
    p_deadline bigint,
    p_again boolean,
    p_wait integer,
    p_max_len bigint,
    p_key_window bigint,
    p_user text,
    p_micros bigint,
    p_type text,
    p_data bytea,
    p_topic text,
    p_key text,
    p_meta text,
    p_change jsonb,
    p_max_logs integer,
    p_max_items bigint,
    p_max_age bigint,
    p_keep_unread boolean,
    OUT clock bigint,
    OUT id bigint,           -- this and the next two: of the event; NULL if nothing was appended
    OUT prev bigint,
    OUT data bytea,
    OUT ids bigint[],
    OUT logs text[],
    OUT total integer,
    OUT unseen integer,
    OUT unread integer,
    OUT last bigint,         -- the end of the log
    OUT topics text[],       -- that are followed, then sessions that were merged
    OUT positions bigint[]
) LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $change_inbox$
DECLARE
    v_change jsonb := p_change;
    v_now bigint;
    v_horizon bigint;
    v_is_stored boolean;     -- by an earlier attempt
    v_is_changed boolean := false;
    v_end bigint;
    v_source text := coalesce(p_change ->> 'topic', p_change ->> 'session');
BEGIN
    clock := (date_part('epoch', clock_timestamp()) * 1000000)::bigint;
    IF clock >= p_deadline THEN
        RAISE EXCEPTION 'the attempt arrived after its deadline' USING ERRCODE = 'NT001', DETAIL = clock;
    END IF;
    PERFORM set_config('lock_timeout', p_wait::text, true);
    INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total) VALUES (p_user, 0, 0, 0, 0)
        ON CONFLICT (user_id) DO UPDATE SET step = 0;
    UPDATE {heads} h SET last_id = b.position FROM {inboxes} b
        WHERE h.user_id = p_user AND b.user_id = p_user AND b.position > h.last_id;
    v_now := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon := coalesce((v_now - p_max_age) << 20, 0);

    SELECT n.changed_ids, n.changed_logs INTO ids, logs FROM {nonces} n WHERE n.nonce = p_nonce;
    v_is_stored := FOUND;
    IF v_is_stored OR p_again THEN  -- a crash of the server empties the table
        SELECT e.id, e.prev, e.data INTO id, prev, data FROM {events} e
            WHERE e.user_id = p_user AND e.id >= (p_deadline / 1000 - 600000) << 20 AND e.nonce = p_nonce + 1;
        v_is_stored := v_is_stored OR FOUND;
    END IF;

    IF NOT v_is_stored THEN
        data := p_data;
        PERFORM {inbox_pull}(p_user, v_now, v_horizon, p_max_items, p_keep_unread);
        IF v_change ? 'before' THEN  -- the end of the other log completes the event
            SELECT greatest(max(e.last), 0) INTO v_end FROM (
                SELECT h.last_id FROM {heads} h WHERE h.user_id = v_source
                UNION ALL
                SELECT b.position FROM {inboxes} b WHERE b.user_id = v_source
            ) AS e (last);
            v_change := v_change || jsonb_build_object('since', v_end, 'until', v_end);
            data := convert_to(concat(v_change ->> 'before', CASE WHEN v_end = 0 THEN '0'
                ELSE concat(v_end >> 20, '-', v_end & 1048575) END, v_change ->> 'after'), 'UTF8');
        END IF;
        IF p_key IS NULL OR NOT EXISTS (
            SELECT FROM {keys} k WHERE k.user_id = p_user AND k.key = p_key AND k.id >= ((clock / 1000) - p_key_window) << 20
        ) THEN
            SELECT a.is_changed, a.ids, a.logs INTO v_is_changed, ids, logs
                FROM {inbox_apply}(p_user, NULL, v_change, v_now, v_horizon, p_max_items, p_keep_unread) a;
        END IF;
        IF v_is_changed THEN
            IF v_source IS NOT NULL AND (SELECT count(*) FROM {follows} f WHERE f.user_id = p_user) > p_max_logs
                AND v_change ->> 'kind' <> 'unfollowed'
            THEN
                RAISE EXCEPTION 'too many topics' USING ERRCODE = 'NT002';
            END IF;
            SELECT s.ids[1], s.prevs[1] INTO id, prev
                FROM {save}(p_nonce, p_deadline, false, p_wait, p_max_len, p_key_window, ARRAY[p_user], ARRAY[p_micros],
                    ARRAY[p_type], ARRAY[data], ARRAY[p_topic], CASE WHEN p_key IS NOT NULL THEN ARRAY[p_key] END,
                    ARRAY[p_meta]) AS s;
            UPDATE {inboxes} b SET position = id WHERE b.user_id = p_user;
            UPDATE {nonces} n SET changed_ids = ids, changed_logs = logs WHERE n.nonce = p_nonce;
        ELSE
            DELETE FROM {heads} h WHERE h.user_id = p_user AND h.last_id = 0;
        END IF;
    END IF;
    -- The positions are those of the follows, not the end of a topic that lists nothing: a stream that continues from here
    -- yields its events since the follow. They fit the topics, since a STABLE function has the snapshot of its query.
    SELECT c.last, c.total, c.unseen, c.unread, c.topics, (
            SELECT array_agg(f.position ORDER BY f.is_merged, f.topic) FROM {follows} f WHERE f.user_id = p_user
        ) INTO last, total, unseen, unread, topics, positions
        FROM {inbox_counts}(p_user, v_now, v_horizon, p_keep_unread) AS c;
END
$change_inbox$;

-- Copies what the topics that one user follows have got; returns how many items. Locks nothing if there is nothing new.
CREATE OR REPLACE FUNCTION {pull_inbox}(
    p_user text, p_wait integer, p_max_items bigint, p_max_age bigint, p_keep_unread boolean, OUT pulled integer
) LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $pull_inbox$
DECLARE
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon bigint := coalesce((v_now - p_max_age) << 20, 0);
BEGIN
    pulled := 0;
    PERFORM FROM {inbox_counts}(p_user, v_now, v_horizon, p_keep_unread) AS c WHERE c.has_news;
    IF FOUND THEN
        PERFORM set_config('lock_timeout', p_wait::text, true);
        INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total) VALUES (p_user, 0, 0, 0, 0)
            ON CONFLICT (user_id) DO UPDATE SET step = 0;
        pulled := {inbox_pull}(p_user, v_now, v_horizon, p_max_items, p_keep_unread);
    END IF;
END
$pull_inbox$;
