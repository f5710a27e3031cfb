-- A page for each user whose log does not end at the position given, all of one snapshot.
SELECT h.last_id, h.last_id < b.horizon AS expired, e.id, e.prev, e.micros, e.type, e.data, e.topic, e.key, e.meta,
    u.user_id
FROM unnest($1::text[], $2::bigint[]) AS u (user_id, after)
CROSS JOIN (SELECT (floor(date_part('epoch', now()) * 1000)::bigint - $4::bigint) << 20 AS horizon) b
LEFT JOIN LATERAL (SELECT * FROM {heads} x WHERE x.user_id = u.user_id LIMIT 1) h ON true
LEFT JOIN LATERAL (
    SELECT * FROM {events} v
    WHERE v.user_id = u.user_id AND v.id > u.after AND v.id >= b.horizon
    ORDER BY v.id LIMIT $3
) e ON true
WHERE h.last_id IS DISTINCT FROM u.after
