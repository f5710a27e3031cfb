WITH gone AS (DELETE FROM {table} WHERE user_id = $1 RETURNING 1) SELECT count(*) AS count FROM gone
