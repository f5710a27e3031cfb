-- Applies a change of states to those items of one user that it names, and that it finds in another state.
--
-- The change: {"kind": "read", ...} and one of {"ids": [id, ...], "logs": [log, ...]}, {"up_to": {log: position, ...}} and
-- {"group": group}. The state that it finds, and the one it leaves, are those of `notify.inbox.abc`.
CREATE OR REPLACE FUNCTION {inbox_mark}(
    p_user text,
    p_before bigint,         -- the id of the event: later items of the user's own log are not touched
    p_change jsonb,
    p_now bigint,
    p_horizon bigint,
    p_keep_unread boolean,
    OUT changed integer,
    OUT ids bigint[],        -- the newest 1000 of them
    OUT logs text[]
) LANGUAGE plpgsql AS $mark$
DECLARE
    v_kind text := p_change ->> 'kind';
    v_group text := p_change ->> 'group';
    v_up_to jsonb := p_change -> 'up_to';
    v_last bigint := CASE WHEN v_up_to IS NOT NULL
        THEN (SELECT max(v.value::bigint) FROM jsonb_each_text(v_up_to) AS v) END;
    v_total integer;
    v_unseen integer;
    v_unread integer;
    v_first bigint;
BEGIN
    changed := 0;
    PERFORM FROM {inboxes} b WHERE b.user_id = p_user AND CASE v_kind
        WHEN 'seen' THEN b.unseen > 0 WHEN 'read' THEN b.unread > 0 WHEN 'unread' THEN b.unread < b.kept
        WHEN 'dismissed' THEN b.total > 0 ELSE b.total < b.kept END;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH named AS MATERIALIZED (
        SELECT i.place, i.seen_at, i.read_at, i.dismissed_at
        FROM (
            SELECT x.*
            FROM unnest(
                ARRAY(SELECT jsonb_array_elements_text(p_change -> 'ids'))::bigint[],
                ARRAY(SELECT jsonb_array_elements_text(p_change -> 'logs'))
            ) AS k (id, log)
            CROSS JOIN LATERAL (  -- never a join: without statistics, that compares each name with each item
                SELECT i.ctid AS place, i.id, i.log, i.seen_at, i.read_at, i.dismissed_at, i.expires_at
                FROM {items} i WHERE i.user_id = p_user AND i.id = k.id AND i.log = k.log OFFSET 0
            ) AS x
            UNION ALL
            SELECT x.ctid, x.id, x.log, x.seen_at, x.read_at, x.dismissed_at, x.expires_at
            FROM {items} x
            WHERE v_up_to IS NOT NULL AND x.user_id = p_user AND x.id <= v_last AND x.id <= (v_up_to ->> x.log)::bigint
            UNION ALL
            SELECT x.ctid, x.id, x.log, x.seen_at, x.read_at, x.dismissed_at, x.expires_at
            FROM {items} x
            WHERE v_group IS NOT NULL AND x.user_id = p_user AND x.group_name = v_group
                AND (x.dismissed_at IS NOT NULL) = (v_kind = 'restored')
        ) AS i
        WHERE CASE v_kind WHEN 'seen' THEN i.seen_at IS NULL WHEN 'read' THEN i.read_at IS NULL
                WHEN 'unread' THEN i.read_at IS NOT NULL WHEN 'dismissed' THEN i.dismissed_at IS NULL
                ELSE i.dismissed_at IS NOT NULL END
            AND (i.log <> '' OR i.id < p_before) AND (i.expires_at IS NULL OR i.expires_at > p_now)
            AND (i.id >= p_horizon OR (p_keep_unread AND i.read_at IS NULL))
    ), done AS (
        UPDATE {items} i SET
            seen_at = CASE WHEN v_kind IN ('seen', 'read', 'dismissed') THEN coalesce(i.seen_at, p_now) ELSE i.seen_at END,
            read_at = CASE WHEN v_kind IN ('read', 'dismissed') THEN coalesce(i.read_at, p_now)
                WHEN v_kind = 'unread' THEN NULL ELSE i.read_at END,
            dismissed_at = CASE WHEN v_kind = 'dismissed' THEN p_now
                WHEN v_kind IN ('unread', 'restored') THEN NULL ELSE i.dismissed_at END
        FROM named n WHERE i.ctid = n.place
        RETURNING i.id, i.log,
            (i.dismissed_at IS NULL)::integer - (n.dismissed_at IS NULL)::integer AS total,
            (i.seen_at IS NULL)::integer - (n.seen_at IS NULL)::integer AS unseen,
            (i.read_at IS NULL)::integer - (n.read_at IS NULL)::integer AS unread
    ), newest AS (
        SELECT array_agg(o.id) AS ids, array_agg(o.log) AS logs
        FROM (SELECT d.id, d.log FROM done d ORDER BY d.id DESC, d.log DESC LIMIT 1000) AS o
    )
    SELECT count(*), sum(d.total), sum(d.unseen), sum(d.unread), min(d.id), (SELECT n.ids FROM newest n),
            (SELECT n.logs FROM newest n)
        INTO changed, v_total, v_unseen, v_unread, v_first, ids, logs
        FROM done d;
    IF changed > 0 THEN
        UPDATE {inboxes} b SET total = b.total + v_total, unseen = b.unseen + v_unseen, unread = b.unread + v_unread,
                kept_before = CASE WHEN v_unread < 0 THEN least(b.kept_before, v_first) ELSE b.kept_before END
            WHERE b.user_id = p_user;
    END IF;
END
$mark$;
