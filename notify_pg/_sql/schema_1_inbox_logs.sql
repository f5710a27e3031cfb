-- Copies what followed topics have got since the last time into one user's rows, as new items; returns how many.
--
-- Topics are not locked: the ends of their logs are read first, and only items up to these are copied.
CREATE OR REPLACE FUNCTION {inbox_pull}(
    p_user text, p_now bigint, p_horizon bigint, p_max_items bigint, p_keep_unread boolean, OUT pulled integer
) LANGUAGE plpgsql AS $pull$
DECLARE
    v_topics text[];
    v_positions bigint[];
    v_ends bigint[];
BEGIN
    pulled := 0;
    SELECT array_agg(t.topic), array_agg(t.position), array_agg(t.last) INTO v_topics, v_positions, v_ends
        FROM (
            SELECT f.topic, f.position, greatest(h.last_id, b.position) AS last
            FROM {follows} f
            LEFT JOIN {heads} h ON h.user_id = f.topic
            LEFT JOIN {inboxes} b ON b.user_id = f.topic
            WHERE f.user_id = p_user AND NOT f.is_merged
        ) AS t
        WHERE t.last > t.position;
    IF v_topics IS NULL THEN
        RETURN;
    END IF;
    PERFORM {inbox_due}(p_user, p_now, p_horizon, p_keep_unread, 500);
    WITH item AS MATERIALIZED (
        SELECT t.topic, i.id, i.group_name, i.expires_at, i.micros, i.type, i.data, i.meta
        FROM unnest(v_topics, v_positions, v_ends) AS t (topic, position, last)
        CROSS JOIN LATERAL (
            SELECT * FROM {items} x
            WHERE x.user_id = t.topic AND x.id > t.position AND x.id <= t.last AND x.log = ''
                AND (x.expires_at IS NULL OR x.expires_at > p_now)
                AND (x.id >= p_horizon OR (p_keep_unread AND x.read_at IS NULL))
            OFFSET 0
        ) AS i
    ), replaced AS (
        DELETE FROM {items} i USING item d
        WHERE i.user_id = p_user AND i.log = d.topic AND i.group_name = d.group_name
        RETURNING i.seen_at, i.read_at, i.dismissed_at
    ), stored AS (
        INSERT INTO {items} (user_id, id, log, group_name, expires_at, micros, type, data, meta)
        SELECT p_user, d.id, d.topic, d.group_name, d.expires_at, d.micros, d.type, d.data, d.meta
        FROM item d CROSS JOIN (SELECT count(*) FROM replaced) AS r
        ON CONFLICT (user_id, id, log) DO NOTHING
        RETURNING id, expires_at
    ), moved AS (
        UPDATE {follows} f SET position = t.last
        FROM unnest(v_topics, v_positions, v_ends) AS t (topic, position, last)
        WHERE f.user_id = p_user AND f.topic = t.topic
    ), change AS (
        SELECT s.count AS new, s.count - r.kept AS kept, s.count - r.total AS total, s.count - r.unseen AS unseen,
            s.count - r.unread AS unread, s.oldest, s.expiry
        FROM (SELECT count(*), min(id) AS oldest, min(expires_at) AS expiry FROM stored) AS s
        CROSS JOIN (
            SELECT count(*) AS kept, count(*) FILTER (WHERE dismissed_at IS NULL) AS total,
                count(*) FILTER (WHERE seen_at IS NULL) AS unseen, count(*) FILTER (WHERE read_at IS NULL) AS unread
            FROM replaced
        ) AS r
    ), counted AS (
        INSERT INTO {inboxes} AS b (user_id, position, kept, total, unseen, unread, oldest, expiry)
        SELECT p_user, 0, c.kept, c.total, c.unseen, c.unread, c.oldest, c.expiry FROM change c WHERE c.new > 0
        ON CONFLICT (user_id) DO UPDATE SET
            kept = b.kept + excluded.kept, total = b.total + excluded.total, unseen = b.unseen + excluded.unseen,
            unread = b.unread + excluded.unread, oldest = least(b.oldest, excluded.oldest),
            expiry = least(b.expiry, excluded.expiry)
    )
    SELECT c.new INTO pulled FROM change c;
    IF pulled > 0 THEN
        PERFORM {inbox_trim}(p_user, p_max_items, p_keep_unread);
    END IF;
END
$pull$;

-- Removes a topic, and its items, from one user's inbox; returns whether it was followed.
CREATE OR REPLACE FUNCTION {inbox_unfollow}(p_user text, p_topic text) RETURNS boolean LANGUAGE plpgsql AS $unfollow$
BEGIN
    DELETE FROM {follows} f WHERE f.user_id = p_user AND f.topic = p_topic AND NOT f.is_merged;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    WITH gone AS (
        DELETE FROM {items} i WHERE i.user_id = p_user AND i.log = p_topic
        RETURNING i.seen_at, i.read_at, i.dismissed_at
    ), change AS (
        SELECT count(*) AS kept, count(*) FILTER (WHERE dismissed_at IS NULL) AS total,
            count(*) FILTER (WHERE seen_at IS NULL) AS unseen, count(*) FILTER (WHERE read_at IS NULL) AS unread
        FROM gone
    )
    UPDATE {inboxes} b SET kept = b.kept - c.kept, total = b.total - c.total, unseen = b.unseen - c.unseen,
        unread = b.unread - c.unread
    FROM change c WHERE b.user_id = p_user;
    RETURN true;
END
$unfollow$;

-- Copies the items of a session up to a position into one user's rows, in their states, and the topics that it follows.
CREATE OR REPLACE FUNCTION {inbox_merge}(
    p_user text, p_session text, p_until bigint, p_now bigint, p_horizon bigint, p_max_items bigint, p_keep_unread boolean
) RETURNS void LANGUAGE plpgsql AS $merge$
DECLARE
    v_position bigint;
    v_topics text[];
BEGIN
    INSERT INTO {follows} (user_id, topic, since, position, is_merged) VALUES (p_user, p_session, 0, 0, true)
        ON CONFLICT DO NOTHING;
    SELECT f.position INTO v_position FROM {follows} f WHERE f.user_id = p_user AND f.topic = p_session;
    WITH new AS (
        INSERT INTO {follows} (user_id, topic, since, position, is_merged)
        SELECT p_user, f.topic, f.since, f.position, f.is_merged FROM {follows} f
        WHERE f.user_id = p_session AND f.topic <> p_user
        ON CONFLICT DO NOTHING RETURNING topic
    )
    SELECT coalesce(array_agg(n.topic), '{}') INTO v_topics FROM new n;

    WITH item AS MATERIALIZED (
        SELECT CASE WHEN i.log = '' THEN p_session ELSE i.log END AS source, i.*
        FROM {items} i
        WHERE i.user_id = p_session AND (i.log = ANY (v_topics) OR (
            i.log = '' AND i.id > v_position AND i.id <= p_until AND (i.expires_at IS NULL OR i.expires_at > p_now)
            AND (i.id >= p_horizon OR (p_keep_unread AND i.read_at IS NULL))))
    ), replaced AS (
        DELETE FROM {items} i USING item d
        WHERE i.user_id = p_user AND i.log = d.source AND (i.group_name = d.group_name OR i.id = d.id)
        RETURNING i.seen_at, i.read_at, i.dismissed_at
    ), stored AS (
        INSERT INTO {items}
            (user_id, id, log, group_name, seen_at, read_at, dismissed_at, expires_at, micros, type, data, meta)
        SELECT p_user, d.id, d.source, d.group_name, d.seen_at, d.read_at, d.dismissed_at, d.expires_at, d.micros,
            d.type, d.data, d.meta
        FROM item d CROSS JOIN (SELECT count(*) FROM replaced) AS r
        RETURNING id, seen_at, read_at, dismissed_at, expires_at
    ), change AS (
        SELECT sum(c.n) AS kept, sum(c.n) FILTER (WHERE c.dismissed_at IS NULL) AS total,
            sum(c.n) FILTER (WHERE c.seen_at IS NULL) AS unseen, sum(c.n) FILTER (WHERE c.read_at IS NULL) AS unread,
            min(c.id) AS oldest, min(c.expires_at) AS expiry
        FROM (
            SELECT 1 AS n, s.id, s.seen_at, s.read_at, s.dismissed_at, s.expires_at FROM stored s
            UNION ALL
            SELECT -1, NULL, r.seen_at, r.read_at, r.dismissed_at, NULL FROM replaced r
        ) AS c
    )
    INSERT INTO {inboxes} AS b (user_id, position, kept, total, unseen, unread, oldest, expiry)
        SELECT p_user, 0, coalesce(c.kept, 0), coalesce(c.total, 0), coalesce(c.unseen, 0), coalesce(c.unread, 0),
            c.oldest, c.expiry FROM change c
        ON CONFLICT (user_id) DO UPDATE SET
            kept = b.kept + excluded.kept, total = b.total + excluded.total, unseen = b.unseen + excluded.unseen,
            unread = b.unread + excluded.unread, oldest = least(b.oldest, excluded.oldest),
            expiry = least(b.expiry, excluded.expiry),
            kept_before = least(b.kept_before, excluded.oldest);
    UPDATE {follows} f SET position = greatest(f.position, p_until) WHERE f.user_id = p_user AND f.topic = p_session;
    PERFORM {inbox_trim}(p_user, p_max_items, p_keep_unread);
END
$merge$;

-- Applies one change of any kind to one user's inbox. The event has been appended, or will be.
CREATE OR REPLACE FUNCTION {inbox_apply}(
    p_user text,
    p_id bigint,             -- of the event; NULL if it has not been appended yet
    p_change jsonb,
    p_now bigint,
    p_horizon bigint,
    p_max_items bigint,
    p_keep_unread boolean,
    OUT is_changed boolean,
    OUT ids bigint[],
    OUT logs text[]
) LANGUAGE plpgsql AS $apply$
DECLARE
    v_kind text := p_change ->> 'kind';
    v_changed integer;
BEGIN
    PERFORM {inbox_due}(p_user, p_now, p_horizon, p_keep_unread, 500);
    IF v_kind = 'followed' THEN
        INSERT INTO {follows} (user_id, topic, since, position, is_merged)
            SELECT p_user, p_change ->> 'topic', s.since, s.since, false
            FROM (SELECT (p_change ->> 'since')::bigint) AS s (since)
            WHERE p_change ->> 'topic' <> p_user
            ON CONFLICT DO NOTHING;
        is_changed := FOUND;
    ELSIF v_kind = 'unfollowed' THEN
        is_changed := {inbox_unfollow}(p_user, p_change ->> 'topic');
    ELSIF v_kind = 'merged' THEN
        is_changed := p_change ->> 'session' <> p_user AND (p_id IS NOT NULL OR (p_change ->> 'until')::bigint > coalesce((
            SELECT f.position FROM {follows} f WHERE f.user_id = p_user AND f.topic = p_change ->> 'session'), 0));
        IF is_changed THEN
            PERFORM {inbox_merge}(p_user, p_change ->> 'session', (p_change ->> 'until')::bigint,
                p_now, p_horizon, p_max_items, p_keep_unread);
        END IF;
    ELSE
        SELECT m.changed, m.ids, m.logs INTO v_changed, ids, logs
            FROM {inbox_mark}(p_user, coalesce(p_id, 9223372036854775807), p_change, p_now, p_horizon, p_keep_unread) m;
        is_changed := v_changed > 0;
    END IF;
    UPDATE {inboxes} b SET position = p_id WHERE b.user_id = p_user AND p_id IS NOT NULL;
    IF NOT FOUND AND v_kind IN ('followed', 'merged') AND is_changed THEN
        INSERT INTO {inboxes} (user_id, position, kept, total, unseen, unread) VALUES (p_user, coalesce(p_id, 0), 0, 0, 0, 0)
            ON CONFLICT DO NOTHING;
    END IF;
END
$apply$;
