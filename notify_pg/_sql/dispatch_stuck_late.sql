-- As dispatch_stuck, for states that are 20 at least, which an index has.
SELECT {delivery_columns} FROM {deliveries}
WHERE phase = 3 AND state = ANY ($1::integer[]) AND id > $2 ORDER BY id LIMIT $3
