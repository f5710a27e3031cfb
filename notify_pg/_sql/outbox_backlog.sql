-- How many rows wait, counted up to a limit, and since when the oldest one does.
SELECT (SELECT count(*) FROM (SELECT FROM {outbox} LIMIT $1) AS w) AS waiting,
    coalesce((
        SELECT greatest(0, date_part('epoch', clock_timestamp()) - o.micros / 1e6) FROM {outbox} o ORDER BY o.id LIMIT 1
    ), 0)::float AS age
