-- The oldest rows of the outbox, if no other relay is at work. Data that is too large for a log is not fetched.
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS is_ours)
SELECT o.id, o.user_id, o.type, o.micros, o.topic, o.key, o.meta, octet_length(o.data) AS size,
    CASE WHEN octet_length(o.data) <= $3 * 2 THEN o.data ELSE ''::bytea END AS data
FROM {outbox} o, turn
WHERE turn.is_ours AND o.id <> ALL ($4::bigint[])
ORDER BY o.id LIMIT $2
FOR UPDATE OF o SKIP LOCKED
