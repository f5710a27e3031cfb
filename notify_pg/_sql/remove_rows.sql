-- The rows before an id on some pages of a table, which are looked at without an index and in no time.
WITH gone AS (DELETE FROM {table} WHERE ctid >= $1::tid AND ctid < $2::tid AND id < $3 RETURNING 1)
SELECT count(*) AS count FROM gone
