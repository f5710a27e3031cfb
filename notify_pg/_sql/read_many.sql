-- A page, as in read.sql, for each user whose log does not end at the given position, all from one snapshot. The head of
-- an unknown user is null.
SELECT e.*, u.user_id
FROM unnest($1::text[], $2::bigint[]) AS u (user_id, after)
CROSS JOIN (SELECT (floor(date_part('epoch', now()) * 1000)::bigint - $4::bigint) << 20 AS horizon) b
LEFT JOIN LATERAL (SELECT * FROM {heads} x WHERE x.user_id = u.user_id LIMIT 1) h ON true
CROSS JOIN LATERAL (
    SELECT h.last_id AS id, NULL::bigint AS prev, (h.last_id < b.horizon)::integer::bigint AS micros, NULL::text AS type,
        NULL::bytea AS data, NULL::text AS topic, NULL::text AS key, NULL::text AS meta
    UNION ALL (
        SELECT v.id, v.prev, v.micros, v.type, v.data, v.topic, v.key, v.meta FROM {events} v
        WHERE v.user_id = u.user_id AND v.id > u.after AND v.id >= b.horizon
        ORDER BY v.id LIMIT $3
    )
) e
WHERE h.last_id IS DISTINCT FROM u.after
