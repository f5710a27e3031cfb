-- As dispatch_stuck, for a single state from 20 on, which is a range of an index.
SELECT {delivery_columns} FROM {deliveries} WHERE phase >= 20 AND phase = $1 AND id > $2 ORDER BY id LIMIT $3
