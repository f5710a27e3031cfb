-- One page of one user's log, with its head, of one snapshot; no row where the user is unknown.
SELECT h.last_id, h.last_id < b.horizon AS expired, e.id, e.prev, e.micros, e.type, e.data, e.topic, e.key, e.meta
FROM (SELECT (floor(date_part('epoch', now()) * 1000)::bigint - $4::bigint) << 20 AS horizon) b
JOIN {heads} h ON h.user_id = $1
LEFT JOIN LATERAL (
    SELECT * FROM {events} v
    WHERE v.user_id = $1 AND v.id > $2 AND v.id >= b.horizon
    ORDER BY v.id LIMIT $3
) e ON true
