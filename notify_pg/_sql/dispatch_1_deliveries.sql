-- Each statement of a function has a snapshot of its own, taken after the locks of the statements before it were taken.
-- Rows are found by their keys, however few there are when a statement is planned: hence the settings of the functions.
-- These settings make cost estimates so high that the server would compile the plans, which takes longer than running them:
-- hence jit = off.

-- Claims what is due: the highest priority first, then the earliest due. Each priority and channel is a range of the
-- index, in which the rows that other workers hold keep their places. A caller whose clock is ahead may claim a row
-- whose `due_at` is still in the server's future. That `due_at` is set to the server's time, so that the search of any
-- later caller finds the row once its lease has ended.
--
-- A row that a worker has left counts as due since the end of its lease, which is not its place in the index.
--
-- Priority by priority, the first statement counts, without locks, how many rows to take from each channel. If none of
-- them was left by a worker, the second locks that many, and skips rows that others have locked, so workers share what
-- is due without waiting for each other. If one was left, or fewer were locked than counted, all channels are searched
-- without locks: for what waits and, up to the last of it, for what was left, since what comes after that place in the
-- index was due later, and so its lease ended later, too. Of what is found, only what is taken is locked. The search
-- is repeated, for twice as many rows each time, until there are enough or it finds nothing new.
CREATE OR REPLACE FUNCTION {claim_deliveries}(p_now bigint, p_lease bigint, p_limit integer, p_channels text[])
RETURNS TABLE (
    id text, notification_id text, user_id text, channel text, endpoint text, state smallint, due_at bigint,
    expires_at bigint, priority integer, after_channel text, delay double precision, fence integer, attempts integer,
    reason text, provider_id text, updated_at bigint, opened_at bigint, clicked_at bigint,
    n_id text, n_type text, n_data bytea, n_created_at bigint, n_expires_at bigint, n_digest_id text, n_meta bytea,
    r_notification_id text, r_user_id text, r_decisions bytea, r_address bytea
) LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_nestloop = on
SET enable_indexscan = on
AS $claim$
#variable_conflict use_column
DECLARE
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_priority bigint := 1::bigint << 32;  -- above all
    v_channels text[];  -- those of the priority
    v_shares text[];    -- those from which rows are taken
    v_sizes integer[];  -- how many of each
    v_count integer;    -- their sum
    v_has_left boolean; -- whether a worker has left one of them
    v_more tid[];
    v_reach integer;    -- how many rows a search finds at most in each channel
    v_found tid[];
    v_tried tid[];      -- what has been found before
    v_rows tid[] := '{}';  -- where they are: no other transaction moves what this one has locked
BEGIN
    WHILE cardinality(v_rows) < p_limit LOOP
        v_priority := (SELECT max(d.priority) FROM {deliveries} d WHERE d.phase = 0 AND d.priority < v_priority);
        EXIT WHEN v_priority IS NULL;
        IF p_channels IS NULL THEN
            WITH RECURSIVE names (name) AS (
                (SELECT min(d.channel) FROM {deliveries} d WHERE d.phase = 0 AND d.priority = v_priority)
                UNION ALL
                SELECT (SELECT min(d.channel) FROM {deliveries} d
                    WHERE d.phase = 0 AND d.priority = v_priority AND d.channel > n.name) FROM names n
                WHERE n.name IS NOT NULL
            )
            SELECT array_agg(n.name) INTO v_channels FROM names n WHERE n.name IS NOT NULL;
        ELSE
            v_channels := ARRAY(SELECT DISTINCT unnest(p_channels));
        END IF;
        SELECT array_agg(s.channel), array_agg(s.size), sum(s.size), bool_or(s.has_left)
        INTO v_shares, v_sizes, v_count, v_has_left FROM (
            SELECT x.channel, count(*)::integer AS size, bool_or(x.is_left) AS has_left FROM (
                SELECT c.channel, d.* FROM unnest(v_channels) AS c(channel) CROSS JOIN LATERAL (
                    SELECT d.due_at, d.state > 0 AS is_left FROM {deliveries} d
                    WHERE d.phase = 0 AND d.priority = v_priority AND d.channel = c.channel
                        AND d.due_at <= greatest(p_now, v_now)
                        AND CASE d.state WHEN 0 THEN d.due_at <= p_now ELSE d.lease_until <= v_now END
                    ORDER BY d.due_at LIMIT p_limit - cardinality(v_rows)
                ) d ORDER BY d.due_at LIMIT p_limit - cardinality(v_rows)
            ) x GROUP BY x.channel
        ) s;
        CONTINUE WHEN v_shares IS NULL;
        IF NOT v_has_left THEN
            SELECT array_agg(x.place ORDER BY x.due_at) INTO v_more
            FROM unnest(v_shares, v_sizes) AS s(channel, size) CROSS JOIN LATERAL (
                SELECT d.ctid AS place, d.due_at FROM {deliveries} d
                WHERE d.phase = 0 AND d.priority = v_priority AND d.channel = s.channel
                    AND d.due_at <= p_now AND d.state = 0
                ORDER BY d.due_at LIMIT s.size FOR UPDATE SKIP LOCKED
            ) x;
            v_rows := v_rows || v_more;
            CONTINUE WHEN cardinality(v_more) = v_count;
        END IF;
        v_tried := v_rows;  -- SKIP LOCKED does not skip what this call itself has locked
        v_reach := p_limit - cardinality(v_rows);
        WHILE cardinality(v_rows) < p_limit LOOP
            SELECT array_agg(f.place ORDER BY f.due_at) INTO v_found FROM (
                SELECT d.* FROM unnest(v_channels) AS c(channel) CROSS JOIN LATERAL (
                    WITH waiting AS MATERIALIZED (
                        SELECT d.ctid AS place, d.due_at FROM {deliveries} d
                        WHERE d.phase = 0 AND d.priority = v_priority AND d.channel = c.channel
                            AND d.due_at <= p_now AND d.state = 0 AND d.ctid <> ALL (v_tried)
                        ORDER BY d.due_at LIMIT v_reach
                    )
                    SELECT * FROM waiting
                    UNION ALL
                    SELECT d.ctid, d.lease_until FROM {deliveries} d
                    WHERE d.phase = 0 AND d.priority = v_priority AND d.channel = c.channel
                        AND d.due_at <= (
                            SELECT CASE WHEN count(*) < v_reach THEN greatest(p_now, v_now) ELSE max(w.due_at) END
                            FROM waiting w
                        ) AND d.state > 0 AND d.lease_until <= v_now AND d.ctid <> ALL (v_tried)
                ) d ORDER BY d.due_at LIMIT v_reach
            ) f;
            EXIT WHEN v_found IS NULL;
            v_more := ARRAY(
                SELECT d.ctid FROM unnest(v_found) WITH ORDINALITY AS x(place, number)
                JOIN {deliveries} d ON d.ctid = x.place  -- by now, another row may be in that place
                WHERE d.phase = 0 AND d.priority = v_priority AND d.channel = ANY (v_channels)
                    AND CASE d.state WHEN 0 THEN d.due_at <= p_now ELSE d.lease_until <= v_now END
                ORDER BY x.number LIMIT p_limit - cardinality(v_rows) FOR UPDATE OF d SKIP LOCKED
            );
            v_rows := v_rows || v_more;
            v_tried := v_tried || v_found || v_more;
            v_reach := 2 * v_reach;
        END LOOP;
    END LOOP;
    IF v_rows = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
        WITH claimed AS (
            UPDATE {deliveries} d SET
                updated_at = CASE d.state WHEN 0 THEN p_now ELSE d.updated_at END,
                state = greatest(d.state, 1),
                fence = d.fence + 1,
                due_at = least(d.due_at, v_now),
                lease_until = v_now + p_lease
            FROM unnest(v_rows) WITH ORDINALITY AS x(place, number)
            WHERE d.ctid = x.place
            RETURNING d.*, x.number
        )
        SELECT {d_delivery_columns}, {n_notification_columns}, {r_recipient_columns}
        FROM claimed d
        JOIN {notifications} n ON n.id = d.notification_id
        CROSS JOIN LATERAL (  -- by both columns of the key, whatever the statistics say: a notification may have many
            SELECT * FROM {recipients} x
            WHERE x.notification_id = d.notification_id AND x.user_id = d.user_id LIMIT 1
        ) r
        ORDER BY d.number;
END
$claim$;

-- Gives what waits for a channel its due time, by what has become of the deliveries over that channel.
--
-- The waiting row is locked before these are read: of two transactions that end the last two of them, the second one
-- sees what the first one did.
CREATE OR REPLACE FUNCTION {settle_deliveries}(
    p_notifications text[], p_users text[], p_channels text[], p_now bigint
) RETURNS void LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_nestloop = on
SET enable_indexscan = on
AS $settle$
DECLARE
    v_row record;
    v_promising boolean;
    v_undecided boolean;
BEGIN
    FOR v_row IN
        SELECT d.id, d.notification_id, d.user_id, d.after_channel
        FROM (SELECT DISTINCT f.n, f.u, f.c FROM unnest(p_notifications, p_users, p_channels) AS f(n, u, c)) f
        JOIN {deliveries} d ON d.notification_id = f.n AND d.user_id = f.u AND d.after_channel = f.c
        WHERE d.phase = 0 AND d.after_channel <> '' AND d.fence = 0
        ORDER BY d.id FOR UPDATE OF d
    LOOP
        SELECT coalesce(bool_or(d.state IN (10, 11, 25)), false), coalesce(bool_or(d.state < 10 OR d.state = 27), false)
            INTO v_promising, v_undecided
            FROM {deliveries} d
            WHERE d.notification_id = v_row.notification_id AND d.user_id = v_row.user_id
                AND d.channel = v_row.after_channel;
        IF v_promising THEN
            UPDATE {deliveries} d SET due_at = p_now + round(d.delay * 1000)::bigint
                WHERE d.id = v_row.id AND d.due_at IS NULL;
        ELSIF NOT v_undecided THEN
            UPDATE {deliveries} d SET due_at = least(d.due_at, p_now) WHERE d.id = v_row.id;
        END IF;
    END LOOP;
END
$settle$;

-- Stores a notification with recipients, deliveries and joins of digests.
CREATE OR REPLACE FUNCTION {submit_notification}(
    p_tenant text,
    p_key text,              -- NULL: none
    p_fingerprint text,
    p_keep_until bigint,
    p_cursor text,
    p_id text,
    p_type text,
    p_data bytea,
    p_created_at bigint,
    p_expires_at bigint,
    p_digest text,
    p_meta bytea,
    p_users text[],
    p_decisions bytea[],
    p_addresses bytea[],
    p_deliveries json,
    p_joins json,
    OUT answer text,         -- `stored`, `replay`, or `other`: the key was used for another request
    OUT notification text,
    OUT reached text         -- how far the audience of that notification has been submitted
) LANGUAGE plpgsql AS $submit$
DECLARE
    v_known record;
    v_added text[];
    v_join record;
BEGIN
    answer := 'stored';
    notification := p_id;
    IF p_key IS NOT NULL THEN
        INSERT INTO {requests} AS r (tenant, key, fingerprint, notification_id, keep_until)
            VALUES (p_tenant, p_key, p_fingerprint, p_id, p_keep_until)
            ON CONFLICT (tenant, key) DO UPDATE SET
                fingerprint = excluded.fingerprint, notification_id = excluded.notification_id,
                keep_until = excluded.keep_until
            WHERE r.keep_until <= p_created_at;
        IF NOT FOUND THEN
            SELECT r.fingerprint, r.notification_id INTO v_known
                FROM {requests} r WHERE r.tenant = p_tenant AND r.key = p_key;
            IF v_known.fingerprint <> p_fingerprint THEN
                answer := 'other';
                RETURN;
            ELSIF v_known.notification_id <> p_id OR p_cursor IS NULL THEN
                answer := 'replay';
                notification := v_known.notification_id;
                SELECT n.cursor INTO reached FROM {notifications} n WHERE n.id = v_known.notification_id;
                RETURN;
            END IF;
        END IF;
    END IF;
    INSERT INTO {notifications} (id, type, data, created_at, expires_at, digest_id, meta, cursor)
        VALUES (p_id, p_type, p_data, p_created_at, p_expires_at, p_digest, p_meta, p_cursor) ON CONFLICT DO NOTHING;
    IF p_cursor IS NOT NULL THEN
        UPDATE {notifications} n SET cursor = p_cursor WHERE n.id = p_id;
    END IF;
    SELECT n.cursor INTO reached FROM {notifications} n WHERE n.id = p_id;
    -- in one order everywhere, so that parts of an audience that overlap do not block each other
    WITH added AS (
        INSERT INTO {recipients} (notification_id, user_id, decisions, address)
            SELECT p_id, r.u, r.d, r.a FROM unnest(p_users, p_decisions, p_addresses) WITH ORDINALITY AS r(u, d, a, n)
            ORDER BY r.u, r.n
            ON CONFLICT DO NOTHING RETURNING user_id
    )
    SELECT array_agg(a.user_id) INTO v_added FROM added a;
    INSERT INTO {deliveries} (id, notification_id, user_id, channel, endpoint, state, due_at, expires_at, priority,
            after_channel, delay, fence, attempts, reason, provider_id, updated_at)
        SELECT d.id, p_id, d.user_id, d.channel, d.endpoint, d.state, d.due_at, d.expires_at, d.priority, d.after_channel,
            d.delay, d.fence, d.attempts, d.reason, d.provider_id, p_created_at
        FROM json_to_recordset(p_deliveries) AS d(id text, user_id text, channel text, endpoint text, state smallint,
            due_at bigint, expires_at bigint, priority integer, after_channel text, delay double precision, fence integer,
            attempts integer, reason text, provider_id text)
        WHERE d.user_id = ANY (v_added)
        ON CONFLICT DO NOTHING;
    FOR v_join IN
        SELECT j.* FROM json_to_recordset(p_joins) AS j(key text, user_id text, type text, channels text,
            closes_at bigint, due_at bigint, slides bigint, "limit" integer)
        WHERE j.user_id = ANY (v_added) ORDER BY j.key COLLATE "C"
    LOOP
        PERFORM {join_digest}(v_join.key, p_id, v_join.user_id, v_join.type, v_join.channels, v_join.closes_at,
            v_join.due_at, v_join.slides, v_join.limit, p_created_at);
    END LOOP;
END
$submit$;

-- All calls lock rows in the same order, so that they cannot deadlock: first the rows that a worker has, may have or has had,
-- then those that wait for another channel, which a worker makes due when it ends that one; both by id.

-- Makes moves, each of another delivery, as far as they are legal; returns the ids of those that were made. Numbers come as
-- the text of an array, which is sent quickest; NULL in place of an array is the same as an array of NULLs.
--
-- Rows are updated, and so locked, in the order of `p_ids`: with these settings, no plan finds them in another order. A row
-- that another transaction has changed is checked as that one left it. If a row was only locked until its lease had ended,
-- the call is rolled back and repeated. Leases that are renewed begin when the last row was free.
CREATE OR REPLACE FUNCTION {advance_deliveries}(
    p_ids text[],            -- sorted
    p_fences text,
    p_states text,
    p_due_at text,
    p_reasons text[],
    p_provider_ids text[],
    p_refunds boolean[],     -- true: the attempt does not count; false: decided before sending, so not an outcome
    p_errors text[],
    p_leases text,           -- how long what begins to be sent stays leased from now on; NULL: as claimed
    p_children json,         -- deliveries to endpoints, each with the id of its `parent`
    p_joins json,            -- joins of digests, each with the id of its `parent`
    p_now bigint,
    p_legal text,            -- legal steps, as 100 * state before + state after
    OUT made text[]
) LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_nestloop = on
SET enable_indexscan = on
AS $advance$
DECLARE
    v_legal integer[] := p_legal;
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_lease bigint;          -- of the leases kept by what begins to be sent, the first to end
    v_renewed text[];        -- what begins to be sent with a new lease
    v_waited bigint;         -- milliseconds
    v_notifications text[];
    v_users text[];
    v_channels text[];
    v_join record;
BEGIN
    WITH moved AS (
        UPDATE {deliveries} d SET
            state = m.state,
            was = d.state,
            reason = coalesce(m.reason, ''),
            updated_at = p_now,
            due_at = CASE m.state WHEN 0 THEN coalesce(m.due_at, p_now) WHEN 2 THEN d.due_at ELSE d.lease_until END,
            lease_until = coalesce(v_now + m.lease, d.lease_until),
            attempts = d.attempts + (m.state = 2)::integer - (m.refund IS TRUE AND d.state = 2)::integer,
            begun = CASE m.state WHEN 2 THEN d.fence ELSE d.begun END,
            provider_id = coalesce(nullif(m.provider_id, ''), d.provider_id)
        FROM unnest(p_ids, p_fences::integer[], p_states::smallint[], p_due_at::bigint[], p_reasons, p_provider_ids,
            p_refunds, p_errors, p_leases::bigint[])
            AS m(id, fence, state, due_at, reason, provider_id, refund, error, lease)
        WHERE d.id = m.id AND d.fence = m.fence AND 100 * d.state + m.state = ANY (v_legal)
            AND (m.state <> 2 OR d.begun < d.fence AND d.lease_until > v_now)
        RETURNING d.id, d.fence, d.state, d.was, d.reason, m.error, m.lease, d.lease_until, d.notification_id, d.user_id,
            d.channel
    ), listed AS (
        INSERT INTO {attempts} (delivery_id, fence, at, state, reason, error, is_late)
            SELECT m.id, m.fence, p_now, m.state, m.reason, coalesce(m.error, ''), false FROM moved m
            WHERE m.was = 2 AND m.state <> 2
            ON CONFLICT DO NOTHING
    )
    SELECT array_agg(m.id), min(m.lease_until) FILTER (WHERE m.state = 2 AND m.lease IS NULL),
            array_agg(m.id) FILTER (WHERE m.state = 2 AND m.lease IS NOT NULL),
            array_agg(m.notification_id) FILTER (WHERE m.state >= 10),
            array_agg(m.user_id) FILTER (WHERE m.state >= 10), array_agg(m.channel) FILTER (WHERE m.state >= 10)
        INTO made, v_lease, v_renewed, v_notifications, v_users, v_channels FROM moved m;
    v_waited := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint - v_now;
    IF v_lease <= v_now + v_waited THEN
        RAISE EXCEPTION 'a lease has ended while its row was locked' USING ERRCODE = 'serialization_failure';
    END IF;
    IF v_renewed IS NOT NULL AND v_waited > 100 THEN -- else the difference is not worth a second version of each row
        UPDATE {deliveries} d SET lease_until = d.lease_until + v_waited
            WHERE d.id = ANY (v_renewed);
    END IF;
    IF coalesce(cardinality(made), 0) < cardinality(p_ids) THEN
        INSERT INTO {attempts} (delivery_id, fence, at, state, reason, error, is_late)
            SELECT m.id, m.fence, p_now, m.state, coalesce(m.reason, ''), coalesce(m.error, ''), true
            FROM unnest(p_ids, p_fences::integer[], p_states::smallint[], p_reasons, p_refunds, p_errors)
                AS m(id, fence, state, reason, refund, error)
            JOIN {deliveries} d ON d.id = m.id
            WHERE (made IS NULL OR m.id <> ALL (made)) AND 200 + m.state = ANY (v_legal) AND m.state <> 2
                AND d.begun >= m.fence AND m.refund IS NOT FALSE
            -- What another transaction erases has no attempts afterwards. To wait for it here could be a deadlock.
            ORDER BY m.id FOR KEY SHARE OF d SKIP LOCKED
            ON CONFLICT DO NOTHING;
    END IF;
    IF p_children IS NOT NULL THEN
        INSERT INTO {deliveries} (id, notification_id, user_id, channel, endpoint, state, due_at, expires_at, priority,
                after_channel, delay, fence, attempts, reason, provider_id, updated_at)
            SELECT d.id, d.notification_id, d.user_id, d.channel, d.endpoint, d.state, d.due_at, d.expires_at, d.priority,
                d.after_channel, d.delay, d.fence, d.attempts, d.reason, d.provider_id, p_now
            FROM json_to_recordset(p_children) AS d(parent text, id text, notification_id text, user_id text,
                channel text, endpoint text, state smallint, due_at bigint, expires_at bigint, priority integer,
                after_channel text, delay double precision, fence integer, attempts integer, reason text, provider_id text)
            WHERE d.parent = ANY (made)
            ON CONFLICT DO NOTHING;
    END IF;
    IF p_joins IS NOT NULL THEN
        FOR v_join IN
            SELECT j.* FROM json_to_recordset(p_joins) AS j(parent text, key text, notification text, user_id text,
                type text, channels text, closes_at bigint, due_at bigint, slides bigint, "limit" integer)
            WHERE j.parent = ANY (made) ORDER BY j.key COLLATE "C"
        LOOP
            PERFORM {join_digest}(v_join.key, v_join.notification, v_join.user_id, v_join.type, v_join.channels,
                v_join.closes_at, v_join.due_at, v_join.slides, v_join.limit, p_now);
        END LOOP;
    END IF;
    IF v_notifications IS NOT NULL THEN
        PERFORM {settle_deliveries}(v_notifications, v_users, v_channels, p_now);
    END IF;
END
$advance$;

-- Makes a step that needs no claim, if it is legal. A delivery in doubt takes the steps of one that is being sent.
CREATE OR REPLACE FUNCTION {resolve_delivery}(
    p_id text, p_state integer, p_now bigint, p_reason text, p_provider_id text, p_legal integer[]
) RETURNS void LANGUAGE plpgsql AS $resolve$
DECLARE
    v_row record;
BEGIN
    UPDATE {deliveries} d SET
        state = p_state,
        reason = p_reason,
        updated_at = p_now,
        due_at = CASE WHEN p_state = 0 THEN p_now WHEN d.state IN (1, 2) THEN d.lease_until ELSE d.due_at END,
        provider_id = CASE p_provider_id WHEN '' THEN d.provider_id ELSE p_provider_id END
        WHERE d.id = p_id AND (100 * d.state + p_state = ANY (p_legal)
            OR d.reason = 'ambiguous' AND d.state IN (0, 1, 27) AND 200 + p_state = ANY (p_legal))
        RETURNING d.notification_id, d.user_id, d.channel INTO v_row;
    IF FOUND THEN
        PERFORM {settle_deliveries}(ARRAY[v_row.notification_id], ARRAY[v_row.user_id], ARRAY[v_row.channel], p_now);
    END IF;
END
$resolve$;

-- Cancels deliveries that have not begun, and removes the notification from open digests; returns how many. Deliveries in
-- doubt become unknown.
CREATE OR REPLACE FUNCTION {cancel_deliveries}(
    p_notification text, p_now bigint, p_user text, p_channel text, p_channels text, p_reason text
) RETURNS integer LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_nestloop = on
SET enable_indexscan = on
AS $cancel$
DECLARE
    v_notifications text[];
    v_users text[];
    v_channels text[];
BEGIN
    IF p_user IS NULL THEN
        PERFORM FROM {deliveries} d
            WHERE d.notification_id = p_notification AND coalesce(d.channel = p_channel, true)
                AND d.state IN (0, 1, 27)
            ORDER BY (d.state = 0 AND d.fence = 0 AND d.after_channel <> ''), d.id FOR UPDATE;
        WITH done AS (
            UPDATE {deliveries} d SET state = CASE d.reason WHEN 'ambiguous' THEN 25 ELSE 22 END, reason = p_reason,
                    updated_at = p_now, due_at = CASE d.state WHEN 1 THEN d.lease_until ELSE d.due_at END
                WHERE d.notification_id = p_notification AND coalesce(d.channel = p_channel, true)
                    AND d.state IN (0, 1, 27)
                RETURNING d.notification_id, d.user_id, d.channel
        )
        SELECT array_agg(d.notification_id), array_agg(d.user_id), array_agg(d.channel)
            INTO v_notifications, v_users, v_channels FROM done d;
    ELSE  -- one recipient has few of a notification's deliveries, of which there may be many
        PERFORM FROM {deliveries} d
            WHERE d.notification_id = p_notification AND d.user_id = p_user AND coalesce(d.channel = p_channel, true)
                AND d.state IN (0, 1, 27)
            ORDER BY (d.state = 0 AND d.fence = 0 AND d.after_channel <> ''), d.id FOR UPDATE;
        WITH done AS (
            UPDATE {deliveries} d SET state = CASE d.reason WHEN 'ambiguous' THEN 25 ELSE 22 END, reason = p_reason,
                    updated_at = p_now, due_at = CASE d.state WHEN 1 THEN d.lease_until ELSE d.due_at END
                WHERE d.notification_id = p_notification AND d.user_id = p_user AND coalesce(d.channel = p_channel, true)
                    AND d.state IN (0, 1, 27)
                RETURNING d.notification_id, d.user_id, d.channel
        )
        SELECT array_agg(d.notification_id), array_agg(d.user_id), array_agg(d.channel)
            INTO v_notifications, v_users, v_channels FROM done d;
    END IF;
    IF v_notifications IS NOT NULL THEN
        PERFORM {settle_deliveries}(v_notifications, v_users, v_channels, p_now);
    END IF;
    RETURN coalesce(cardinality(v_notifications), 0) + {leave_digests}(p_notification, p_user, p_channels);
END
$cancel$;

-- Removes a notification with what belongs to it, at most so many deliveries and recipients; returns whether all is
-- gone. NULL: nothing is removed, because a delivery is open again.
CREATE OR REPLACE FUNCTION {purge_notification}(p_id text, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $purge$
DECLARE
    v_deliveries text[];
    v_users text[];
BEGIN
    SELECT array_agg(x.id) INTO v_deliveries
        FROM (SELECT d.id FROM {deliveries} d WHERE d.notification_id = p_id ORDER BY d.id LIMIT p_limit FOR UPDATE) x;
    IF EXISTS (SELECT FROM {deliveries} d WHERE d.notification_id = p_id AND d.state < 10) THEN
        RETURN NULL;
    END IF;
    DELETE FROM {attempts} WHERE delivery_id = ANY (v_deliveries);
    DELETE FROM {deliveries} WHERE id = ANY (v_deliveries);
    SELECT array_agg(x.user_id) INTO v_users
        FROM (SELECT r.user_id FROM {recipients} r WHERE r.notification_id = p_id LIMIT p_limit) x;
    DELETE FROM {recipients} WHERE notification_id = p_id AND user_id = ANY (v_users);
    IF cardinality(v_deliveries) = p_limit OR cardinality(v_users) = p_limit THEN
        RETURN false;
    END IF;
    DELETE FROM {digests} WHERE id = p_id;
    DELETE FROM {digest_items} WHERE digest_id = p_id OR notification_id = p_id;
    DELETE FROM {notifications} WHERE id = p_id;
    RETURN true;
END
$purge$;
