SELECT user_id, id, prev, micros, type, data, topic, key, meta FROM {events}
WHERE (user_id, id) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))
