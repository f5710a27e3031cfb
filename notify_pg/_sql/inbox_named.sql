WITH moment AS (SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint AS now),
limits AS (SELECT now, coalesce((now - $2::bigint) << 20, 0) AS horizon FROM moment),
counts AS (SELECT c.* FROM limits, {inbox_counts}($1::text, now, horizon, $3::boolean) AS c)
SELECT NULL::bigint AS id, NULL::text AS log, NULL::text AS group_name, NULL::bigint AS seen_at, NULL::bigint AS read_at,
    NULL::bigint AS dismissed_at, NULL::bigint AS expires_at, NULL::bigint AS micros, NULL::text AS type,
    NULL::bytea AS data, NULL::text AS meta, c.last, c.total, c.unseen, c.unread, c.topics, c.positions, c.has_news
FROM counts AS c
UNION ALL
SELECT i.id, i.log, i.group_name, i.seen_at, i.read_at, i.dismissed_at, i.expires_at, i.micros, i.type, i.data, i.meta,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM limits AS l, counts AS c, unnest($4::bigint[], $5::text[]) AS named(id, log)
CROSS JOIN LATERAL ( -- one look into the index for each id, whatever is known of the table
    SELECT * FROM {items} WHERE user_id = $1 AND id = named.id AND log = named.log OFFSET 0
) AS i
WHERE ($6::boolean OR NOT c.has_news) AND (i.expires_at IS NULL OR i.expires_at > l.now)
    AND (i.id >= l.horizon OR ($3 AND i.read_at IS NULL))
