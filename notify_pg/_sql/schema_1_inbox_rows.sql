-- Removes due items of one user, up to a limit.
CREATE OR REPLACE FUNCTION {inbox_due}(
    p_user text,
    p_now bigint,            -- milliseconds
    p_horizon bigint,        -- items before this id are too old
    p_keep_unread boolean,   -- unless they are unread
    p_limit integer,
    OUT removed integer
) LANGUAGE plpgsql AS $due$
DECLARE
    v_total integer;
    v_unseen integer;
    v_unread integer;
    v_kept_before bigint;
BEGIN
    SELECT CASE WHEN p_keep_unread THEN b.kept_before ELSE 0 END INTO v_kept_before FROM {inboxes} b
        WHERE b.user_id = p_user
            AND (b.expiry <= p_now OR (b.oldest < p_horizon AND (b.kept_before < p_horizon OR NOT p_keep_unread)));
    IF NOT FOUND THEN
        removed := 0;
        RETURN;
    END IF;
    WITH due AS MATERIALIZED (
        (SELECT i.id, i.log FROM {items} i WHERE i.user_id = p_user AND i.expires_at <= p_now LIMIT p_limit)
        UNION
        (SELECT i.id, i.log FROM {items} i
            WHERE i.user_id = p_user AND i.id >= v_kept_before AND i.id < p_horizon
                AND (i.read_at IS NOT NULL OR NOT p_keep_unread)
            ORDER BY i.id LIMIT p_limit)
        LIMIT p_limit
    ), gone AS (
        DELETE FROM {items} i USING due d WHERE i.user_id = p_user AND i.id = d.id AND i.log = d.log
        RETURNING i.seen_at, i.read_at, i.dismissed_at
    )
    SELECT count(*), count(*) FILTER (WHERE dismissed_at IS NULL), count(*) FILTER (WHERE seen_at IS NULL),
            count(*) FILTER (WHERE read_at IS NULL)
        INTO removed, v_total, v_unseen, v_unread FROM gone;
    UPDATE {inboxes} b SET kept = b.kept - removed, total = b.total - v_total, unseen = b.unseen - v_unseen,
            unread = b.unread - v_unread,
            oldest = (SELECT i.id FROM {items} i WHERE i.user_id = p_user ORDER BY i.id LIMIT 1),
            expiry = (SELECT min(i.expires_at) FROM {items} i WHERE i.user_id = p_user AND i.expires_at IS NOT NULL),
            kept_before = CASE WHEN p_keep_unread AND removed < p_limit THEN greatest(b.kept_before, coalesce((
                SELECT i.id FROM {items} i WHERE i.user_id = p_user AND i.id >= p_horizon ORDER BY i.id LIMIT 1), p_horizon))
                ELSE b.kept_before END
        WHERE b.user_id = p_user;
END
$due$;

-- Removes the oldest items of one user, if there are more than may be kept.
CREATE OR REPLACE FUNCTION {inbox_trim}(p_user text, p_max_items bigint, p_keep_unread boolean) RETURNS void
LANGUAGE plpgsql AS $trim$
DECLARE
    v_keeps boolean := p_keep_unread;
    v_max bigint := p_max_items;
    v_excess bigint;
    v_kept_before bigint;
BEGIN
    LOOP
        SELECT least(b.kept - v_max, CASE WHEN v_keeps THEN b.kept - b.unread END), CASE WHEN v_keeps THEN b.kept_before ELSE 0 END
            INTO v_excess, v_kept_before FROM {inboxes} b WHERE b.user_id = p_user;
        IF v_excess > 0 THEN
            WITH old AS MATERIALIZED (
                SELECT i.id, i.log FROM {items} i
                WHERE i.user_id = p_user AND i.id >= v_kept_before AND (i.read_at IS NOT NULL OR NOT v_keeps)
                ORDER BY i.id, i.log LIMIT v_excess
            ), gone AS (
                DELETE FROM {items} i USING old o WHERE i.user_id = p_user AND i.id = o.id AND i.log = o.log
                RETURNING i.id, i.seen_at, i.read_at, i.dismissed_at
            ), change AS (
                SELECT count(*) AS kept, count(*) FILTER (WHERE dismissed_at IS NULL) AS total,
                    count(*) FILTER (WHERE seen_at IS NULL) AS unseen, count(*) FILTER (WHERE read_at IS NULL) AS unread,
                    max(id) AS last
                FROM gone
            )
            UPDATE {inboxes} b SET kept = b.kept - c.kept, total = b.total - c.total, unseen = b.unseen - c.unseen,
                unread = b.unread - c.unread, kept_before = greatest(b.kept_before, c.last)
            FROM change c WHERE b.user_id = p_user;
        END IF;
        EXIT WHEN NOT v_keeps;
        v_keeps := false;
        v_max := 10 * p_max_items;
    END LOOP;
END
$trim$;

-- Lists some of the events that a batch has appended: those with numbers in a range and an expiry (-1: none). One that has
-- expired by then is not stored; it only removes the item before it in its group.
--
-- Rows that exist are found one by one and then updated by their place. A join could compare each with all others: its
-- plan would be that for the few rows of the beginning.
CREATE OR REPLACE FUNCTION {inbox_items}(
    p_first integer,
    p_last integer,
    p_users text[],
    p_ids bigint[],          -- NULL for an event that was not appended
    p_micros bigint[],       -- this and the next two: one element if it is the same for all
    p_types text[],
    p_data bytea[],
    p_topics text[],         -- NULL if no event has one
    p_metas text[],
    p_expiries bigint[],
    p_now bigint,
    p_horizon bigint,
    p_max_items bigint,
    p_keep_unread boolean
) RETURNS void LANGUAGE plpgsql AS $items$
DECLARE
    v_ids bigint[] := p_ids;
    v_user text;
    v_busy text[];
    v_gone_users text[];     -- of items that are replaced; then whether each was active, unseen and unread
    v_gone_total integer[];
    v_gone_unseen integer[];
    v_gone_unread integer[];
BEGIN
    IF p_topics IS NOT NULL THEN
        SELECT array_agg(CASE WHEN d.topic IS NULL OR d.nth = 1 THEN d.id END ORDER BY d.n) INTO v_ids
            FROM (
                SELECT u.n, u.id, u.topic,
                    row_number() OVER (
                        PARTITION BY u.user_id, u.topic, u.id IS NULL, u.expiry IS NULL, u.n > p_last
                        ORDER BY u.n DESC) AS nth
                FROM unnest(p_users, p_ids, p_topics, p_expiries) WITH ORDINALITY AS u (user_id, id, topic, expiry, n)
            ) AS d;
        WITH gone AS (
            DELETE FROM {items} i USING (
                SELECT x.place
                FROM unnest(p_users, v_ids, p_topics, p_expiries) WITH ORDINALITY AS d (user_id, id, topic, expiry, n)
                CROSS JOIN LATERAL (
                    SELECT y.ctid AS place FROM {items} y
                    WHERE y.user_id = d.user_id AND y.group_name = d.topic AND y.log = '' OFFSET 0
                ) AS x
                WHERE d.n BETWEEN p_first AND p_last AND d.id IS NOT NULL AND d.expiry IS NOT NULL
            ) AS o
            WHERE i.ctid = o.place
            RETURNING i.user_id, i.seen_at, i.read_at, i.dismissed_at
        )
        SELECT array_agg(g.user_id), array_agg((g.dismissed_at IS NULL)::integer), array_agg((g.seen_at IS NULL)::integer),
                array_agg((g.read_at IS NULL)::integer)
            INTO v_gone_users, v_gone_total, v_gone_unseen, v_gone_unread FROM gone g;
    END IF;

    WITH item AS MATERIALIZED (
        SELECT d.user_id, d.id, d.topic, CASE WHEN d.expiry > p_now THEN d.expiry END AS expiry,
            d.expiry = -1 OR d.expiry > p_now AS is_stored, coalesce(d.micros, p_micros[1]) AS micros,
            coalesce(d.type, p_types[1]) AS type, coalesce(d.data, p_data[1]) AS data, d.meta
        FROM unnest(p_users, v_ids, p_micros, p_types, p_data, p_topics, p_metas, p_expiries) WITH ORDINALITY
            AS d (user_id, id, micros, type, data, topic, meta, expiry, n)
        WHERE d.n BETWEEN p_first AND p_last AND d.id IS NOT NULL AND d.expiry IS NOT NULL
    ), stored AS (
        INSERT INTO {items} (user_id, id, log, group_name, expires_at, micros, type, data, meta)
        SELECT d.user_id, d.id, '', d.topic, d.expiry, d.micros, d.type, d.data, d.meta FROM item d WHERE d.is_stored
    ), change AS MATERIALIZED (
        SELECT c.user_id, sum(c.kept) AS kept, sum(c.total) AS total, sum(c.unseen) AS unseen, sum(c.unread) AS unread,
            max(c.id) AS newest, min(c.id) AS oldest, min(c.expiry) AS expiry
        FROM (
            SELECT d.user_id, d.is_stored::integer AS kept, d.is_stored::integer AS total, d.is_stored::integer AS unseen,
                d.is_stored::integer AS unread, d.id, d.expiry
            FROM item d
            UNION ALL
            SELECT g.user_id, -1, -g.total, -g.unseen, -g.unread, NULL, NULL
            FROM unnest(v_gone_users, v_gone_total, v_gone_unseen, v_gone_unread) AS g (user_id, total, unseen, unread)
        ) AS c GROUP BY c.user_id
    ), counted AS (
        UPDATE {inboxes} b SET
            position = c.newest, kept = b.kept + c.kept, total = b.total + c.total, unseen = b.unseen + c.unseen,
            unread = b.unread + c.unread, oldest = least(b.oldest, c.oldest), expiry = least(b.expiry, c.expiry)
        FROM change c CROSS JOIN LATERAL (
            SELECT x.ctid AS place FROM {inboxes} x WHERE x.user_id = c.user_id OFFSET 0
        ) AS o
        WHERE b.ctid = o.place
        RETURNING b.user_id, b.kept > p_max_items OR b.expiry <= p_now
            OR (b.oldest < p_horizon AND (b.kept_before < p_horizon OR NOT p_keep_unread)) AS is_busy
    ), created AS (
        INSERT INTO {inboxes} (user_id, position, kept, total, unseen, unread, oldest, expiry)
        SELECT c.user_id, c.newest, c.kept, c.total, c.unseen, c.unread, c.oldest, c.expiry FROM change c
        WHERE (SELECT count(*) FROM counted) < (SELECT count(*) FROM change)
            AND c.user_id NOT IN (SELECT k.user_id FROM counted k)
        RETURNING user_id, kept > p_max_items OR oldest < p_horizon OR expiry <= p_now AS is_busy
    )
    SELECT array_agg(b.user_id) INTO v_busy
        FROM (SELECT * FROM counted UNION ALL SELECT * FROM created) AS b WHERE b.is_busy;

    FOREACH v_user IN ARRAY coalesce(v_busy, '{}') LOOP
        PERFORM {inbox_due}(v_user, p_now, p_horizon, p_keep_unread, 500);
        PERFORM {inbox_trim}(v_user, p_max_items, p_keep_unread);
    END LOOP;
END
$items$;

-- As the function above, for one event.
CREATE OR REPLACE FUNCTION {inbox_item}(
    p_user text, p_id bigint, p_micros bigint, p_type text, p_data bytea, p_topic text, p_meta text, p_expiry bigint,
    p_now bigint, p_horizon bigint, p_max_items bigint, p_keep_unread boolean
) RETURNS void LANGUAGE plpgsql AS $item$
DECLARE
    v_seen bigint;
    v_read bigint;
    v_dismissed bigint;
    v_kept integer := (p_expiry = -1 OR p_expiry > p_now)::integer;  -- this and the next three: what is added
    v_total integer := v_kept;
    v_unseen integer := v_kept;
    v_unread integer := v_kept;
    v_expiry bigint := CASE WHEN p_expiry > p_now THEN p_expiry END;
    v_is_stored boolean := v_kept = 1;
    v_is_busy boolean;
BEGIN
    IF p_topic IS NOT NULL THEN
        DELETE FROM {items} i WHERE i.user_id = p_user AND i.group_name = p_topic AND i.log = ''
            RETURNING i.seen_at, i.read_at, i.dismissed_at INTO v_seen, v_read, v_dismissed;
        IF FOUND THEN
            v_kept := v_kept - 1;
            v_total := v_total - (v_dismissed IS NULL)::integer;
            v_unseen := v_unseen - (v_seen IS NULL)::integer;
            v_unread := v_unread - (v_read IS NULL)::integer;
        END IF;
    END IF;
    INSERT INTO {items} (user_id, id, log, group_name, expires_at, micros, type, data, meta)
        SELECT p_user, p_id, '', p_topic, v_expiry, p_micros, p_type, p_data, p_meta WHERE v_is_stored;
    INSERT INTO {inboxes} AS b (user_id, position, kept, total, unseen, unread, oldest, expiry)
        VALUES (p_user, p_id, v_kept, v_total, v_unseen, v_unread, p_id, v_expiry)
        ON CONFLICT (user_id) DO UPDATE SET
            position = excluded.position, kept = b.kept + excluded.kept, total = b.total + excluded.total,
            unseen = b.unseen + excluded.unseen, unread = b.unread + excluded.unread,
            oldest = least(b.oldest, excluded.oldest), expiry = least(b.expiry, excluded.expiry)
        RETURNING b.kept > p_max_items OR b.expiry <= p_now
            OR (b.oldest < p_horizon AND (b.kept_before < p_horizon OR NOT p_keep_unread)) INTO v_is_busy;
    IF v_is_busy THEN
        PERFORM {inbox_due}(p_user, p_now, p_horizon, p_keep_unread, 500);
        PERFORM {inbox_trim}(p_user, p_max_items, p_keep_unread);
    END IF;
END
$item$;
