-- One page of one user's log, of one snapshot. Before the events one row without a type: as id the head, as micros
-- whether it has expired. No row at all where the user is unknown.
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
