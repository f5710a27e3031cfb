-- As dispatch_stuck, for one state that is 20 at least, which has its own stretch of an index.
SELECT {delivery_columns} FROM {deliveries} WHERE phase >= 20 AND phase = $1 AND id > $2 ORDER BY id LIMIT $3
