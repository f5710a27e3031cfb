-- Removes the rows before an id from a range of pages. A scan by ctid needs no index and is quick.
WITH gone AS (DELETE FROM {table} WHERE ctid >= $1::tid AND ctid < $2::tid AND id < $3 RETURNING 1)
SELECT count(*) AS count FROM gone
