-- The highest priority first, and of each what has been due for longest. Rows are locked one by one as they are taken,
-- so workers share what is due without waiting for each other.
WITH RECURSIVE clock AS MATERIALIZED (
    SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint AS now
), levels (priority) AS (
    (SELECT max(d.priority) FROM {deliveries} d WHERE d.state < 10)
    UNION ALL
    SELECT (SELECT max(d.priority) FROM {deliveries} d WHERE d.state < 10 AND d.priority < l.priority)
    FROM levels l WHERE l.priority IS NOT NULL
), due AS MATERIALIZED (
    SELECT x.id, x.due_at FROM levels l, LATERAL (
        SELECT d.id, d.due_at FROM {deliveries} d
        WHERE d.state < 10 AND d.priority = l.priority AND d.due_at <= greatest($1, (SELECT now FROM clock))
            AND CASE d.state WHEN 0 THEN d.due_at <= $1 ELSE d.lease_until <= (SELECT now FROM clock) END
            AND ($4::text[] IS NULL OR d.channel = ANY ($4::text[]))
        ORDER BY d.due_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ) x LIMIT $3
), claimed AS (
    UPDATE {deliveries} d SET
        updated_at = CASE d.state WHEN 0 THEN $1 ELSE d.updated_at END,
        state = greatest(d.state, 1),
        fence = d.fence + 1,
        due_at = c.now + $2,
        lease_until = c.now + $2
    FROM due, clock c WHERE d.id = due.id
    RETURNING d.*, due.due_at AS was_due_at
)
SELECT {d_delivery_columns}, {n_notification_columns}, {r_recipient_columns}
FROM claimed d
JOIN {notifications} n ON n.id = d.notification_id
JOIN {recipients} r ON r.notification_id = d.notification_id AND r.user_id = d.user_id
ORDER BY d.priority DESC, d.was_due_at
