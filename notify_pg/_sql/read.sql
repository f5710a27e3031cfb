-- One page of one user's log, from one snapshot. The first row has no type and describes the head: its id, and in micros
-- whether it has expired. An unknown user has no row at all.
SELECT e.*
FROM (SELECT (floor(date_part('epoch', now()) * 1000)::bigint - $4::bigint) << 20 AS horizon) b
JOIN {heads} h ON h.user_id = $1
CROSS JOIN LATERAL (
    SELECT h.last_id AS id, NULL::bigint AS prev, (h.last_id < b.horizon)::integer::bigint AS micros, NULL::text AS type,
        NULL::bytea AS data, NULL::text AS topic, NULL::text AS key, NULL::text AS meta
    UNION ALL (
        SELECT v.id, v.prev, v.micros, v.type, v.data, v.topic, v.key, v.meta FROM {events} v
        WHERE v.user_id = $1 AND v.id > $2 AND v.id >= b.horizon
        ORDER BY v.id LIMIT $3
    )
) e
