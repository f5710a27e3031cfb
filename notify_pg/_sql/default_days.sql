-- The days whose events are in the default partition, and how many each has.
SELECT floor(id::numeric / $1::bigint)::bigint AS day, count(*) AS count FROM {events_default} GROUP BY 1 ORDER BY 1 LIMIT 50
