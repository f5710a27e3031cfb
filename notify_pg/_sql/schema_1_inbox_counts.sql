-- How many items one user has that are active and not due, and the positions for which that is exact. A topic has news if
-- it has items that were not copied. One that has none is read up to its end.
CREATE OR REPLACE FUNCTION {inbox_counts}(p_user text, p_now bigint, p_horizon bigint, p_keep_unread boolean)
RETURNS TABLE (
    last bigint, total integer, unseen integer, unread integer, topics text[], positions bigint[], has_news boolean
) LANGUAGE sql STABLE AS $counts$
    SELECT greatest(h.last_id, b.position, 0),
        coalesce(b.total - e.total - a.total, 0)::integer,
        coalesce(b.unseen - e.unseen - a.unseen, 0)::integer,
        coalesce(b.unread - e.unread - a.unread, 0)::integer,
        l.topics, l.positions, coalesce(l.has_news, false)
    FROM (SELECT) AS one
    LEFT JOIN {heads} h ON h.user_id = p_user
    LEFT JOIN {inboxes} b ON b.user_id = p_user
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE i.dismissed_at IS NULL) AS total, count(*) FILTER (WHERE i.seen_at IS NULL) AS unseen,
            count(*) FILTER (WHERE i.read_at IS NULL) AS unread
        FROM {items} i WHERE b.expiry <= p_now AND i.user_id = p_user AND i.expires_at <= p_now
    ) AS e
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE i.dismissed_at IS NULL) AS total, count(*) FILTER (WHERE i.seen_at IS NULL) AS unseen,
            count(*) FILTER (WHERE i.read_at IS NULL) AS unread
        FROM {items} i
        WHERE b.oldest < p_horizon AND i.user_id = p_user AND i.id < p_horizon
            AND (i.read_at IS NOT NULL OR NOT p_keep_unread) AND (i.expires_at IS NULL OR i.expires_at > p_now)
    ) AS a
    CROSS JOIN LATERAL (
        SELECT array_agg(t.topic ORDER BY t.is_merged, t.topic) AS topics,
            array_agg(CASE WHEN t.is_merged OR t.has_news THEN t.position ELSE greatest(t.position, t.last) END
                ORDER BY t.is_merged, t.topic) AS positions,
            bool_or(t.has_news) AS has_news
        FROM (
            SELECT f.topic, f.position, f.is_merged, greatest(x.last_id, y.position) AS last,
                CASE WHEN NOT f.is_merged AND greatest(x.last_id, y.position) > f.position THEN EXISTS (
                    SELECT FROM {items} i WHERE i.user_id = f.topic AND i.id > f.position AND i.log = ''
                ) ELSE false END AS has_news
            FROM {follows} f
            LEFT JOIN {heads} x ON x.user_id = f.topic
            LEFT JOIN {inboxes} y ON y.user_id = f.topic
            WHERE f.user_id = p_user
        ) AS t
    ) AS l
$counts$;
