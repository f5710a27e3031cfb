-- Moves rows of the outbox to where they are kept with the reason.
WITH gone AS (DELETE FROM {outbox} WHERE id = ANY ($1::bigint[]) RETURNING *)
INSERT INTO {outbox_dead} (id, reason, user_id, type, data, micros, topic, key, meta)
SELECT g.id, b.reason, g.user_id, g.type, g.data, g.micros, g.topic, g.key, g.meta
FROM gone g JOIN unnest($1::bigint[], $2::text[]) AS b (id, reason) ON b.id = g.id
