-- How many items one user has that are active and not due, and the positions for which that is exact. A topic has news if
-- it has items that were not copied. One that has none is read up to its end.
CREATE OR REPLACE FUNCTION {inbox_counts}(
    p_user text,
    p_now bigint,
    p_horizon bigint,
    p_keep_unread boolean,
    OUT last bigint,
    OUT total integer,
    OUT unseen integer,
    OUT unread integer,
    OUT topics text[],       -- that are followed, then sessions that were merged
    OUT positions bigint[],
    OUT has_news boolean
) LANGUAGE plpgsql STABLE AS $counts$
DECLARE
    v_has_due boolean;
    v_kept_before bigint;
BEGIN
    SELECT greatest(h.last_id, b.position, 0), coalesce(b.total, 0), coalesce(b.unseen, 0), coalesce(b.unread, 0),
            b.expiry <= p_now OR (b.oldest < p_horizon AND (b.kept_before < p_horizon OR NOT p_keep_unread)),
            CASE WHEN p_keep_unread THEN b.kept_before ELSE 0 END
        INTO last, total, unseen, unread, v_has_due, v_kept_before
        FROM (SELECT) AS one LEFT JOIN {heads} h ON h.user_id = p_user LEFT JOIN {inboxes} b ON b.user_id = p_user;
    IF v_has_due THEN
        SELECT total - count(*) FILTER (WHERE d.dismissed_at IS NULL), unseen - count(*) FILTER (WHERE d.seen_at IS NULL),
                unread - count(*) FILTER (WHERE d.read_at IS NULL)
            INTO total, unseen, unread
            FROM (
                SELECT i.seen_at, i.read_at, i.dismissed_at FROM {items} i WHERE i.user_id = p_user AND i.expires_at <= p_now
                UNION ALL
                SELECT i.seen_at, i.read_at, i.dismissed_at FROM {items} i
                WHERE i.user_id = p_user AND i.id >= v_kept_before AND i.id < p_horizon
                    AND (i.read_at IS NOT NULL OR NOT p_keep_unread)
                    AND (i.expires_at IS NULL OR i.expires_at > p_now)
            ) AS d;
    END IF;
    SELECT array_agg(t.topic ORDER BY t.is_merged, t.topic),
            array_agg(CASE WHEN t.is_merged OR t.has_news THEN t.position ELSE greatest(t.position, t.last) END
                ORDER BY t.is_merged, t.topic),
            coalesce(bool_or(t.has_news), false)
        INTO topics, positions, has_news
        FROM (
            SELECT f.topic, f.position, f.is_merged, greatest(x.last_id, y.position) AS last,
                CASE WHEN NOT f.is_merged AND greatest(x.last_id, y.position) > f.position THEN EXISTS (
                    SELECT FROM {items} i WHERE i.user_id = f.topic AND i.id > f.position AND i.log = ''
                ) ELSE false END AS has_news
            FROM {follows} f
            LEFT JOIN {heads} x ON x.user_id = f.topic
            LEFT JOIN {inboxes} y ON y.user_id = f.topic
            WHERE f.user_id = p_user
        ) AS t;
END
$counts$;
