-- The id of every n-th event of a range in the default partition: where to cut it.
SELECT id FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS n FROM {events_default} WHERE id >= $1 AND id < $2
) e WHERE n > 1 AND n % $3::bigint = 1 ORDER BY id
