-- As dispatch_stuck, for states that are 20 at least, of which each has its own stretch of an index.
SELECT {d_delivery_columns} FROM unnest($1::integer[]) AS s(state) CROSS JOIN LATERAL (
    SELECT * FROM {deliveries} x WHERE x.phase >= 20 AND x.phase = s.state AND x.id > $2 ORDER BY x.id LIMIT $3
) d ORDER BY d.id LIMIT $3
