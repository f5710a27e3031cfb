INSERT INTO {outbox} (user_id, micros, type, data, topic, key, meta)
SELECT d.user_id, coalesce(d.micros, ($2::bigint[])[1]), coalesce(d.type, ($3::text[])[1]),
    coalesce(d.data, ($4::bytea[])[1]), d.topic, d.key, d.meta
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[])
    AS d (user_id, micros, type, data, topic, key, meta)
