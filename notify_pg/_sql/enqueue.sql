INSERT INTO {outbox} (user_id, micros, type, data, topic, key, meta)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[])
