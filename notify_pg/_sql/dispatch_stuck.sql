SELECT {delivery_columns} FROM {deliveries} WHERE state = ANY ($1::integer[]) AND id > $2 ORDER BY id LIMIT $3
