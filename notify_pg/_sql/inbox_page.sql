-- Counts and a page of items, newest first, from one snapshot. The first row has no id and describes the inbox. Where a
-- topic has news, that row is the only one, unless this is asked for: they are to be copied first.
WITH inbox AS MATERIALIZED (
    SELECT c.*, t.now, t.horizon
    FROM (SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint AS now OFFSET 0) AS n
    CROSS JOIN LATERAL (SELECT n.now, coalesce((n.now - $2::bigint) << 20, 0) AS horizon) AS t
    CROSS JOIN LATERAL {inbox_counts}($1, t.now, t.horizon, $3) AS c
)
SELECT NULL::bigint AS id, NULL::text AS log, NULL::text AS group_name, NULL::bigint AS seen_at, NULL::bigint AS read_at,
    NULL::bigint AS dismissed_at, NULL::bigint AS expires_at, NULL::bigint AS micros, NULL::text AS type,
    NULL::bytea AS data, NULL::text AS meta,
    b.last, b.total, b.unseen, b.unread, b.topics, b.positions, b.has_news
FROM inbox b
UNION ALL
SELECT i.*, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM inbox b
CROSS JOIN LATERAL (
    SELECT x.id, x.log, x.group_name, x.seen_at, x.read_at, x.dismissed_at, x.expires_at, x.micros, x.type, x.data, x.meta
    FROM {items} x
    WHERE x.user_id = $1 AND (x.id, x.log) < ($4::bigint, $5::text) AND (x.id, x.log) >= ($6::bigint, $7::text)
        AND CASE $8::text WHEN 'active' THEN x.dismissed_at IS NULL WHEN 'unread' THEN x.read_at IS NULL
            WHEN 'read' THEN x.dismissed_at IS NULL AND x.read_at IS NOT NULL
            WHEN 'dismissed' THEN x.dismissed_at IS NOT NULL ELSE true END
        AND ($9::text[] IS NULL OR x.type = ANY ($9)) AND ($10::text IS NULL OR x.group_name = $10)
        AND (x.expires_at IS NULL OR x.expires_at > b.now)
        AND (x.id >= b.horizon OR ($3 AND x.read_at IS NULL))
    ORDER BY x.id DESC, x.log DESC LIMIT $11
) AS i
WHERE $12 OR NOT b.has_news
