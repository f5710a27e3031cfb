-- Makes what waits for a channel, or is parked on it, due now: $3 rows of each at most; returns how many.
WITH RECURSIVE levels (priority) AS (
    (SELECT max(d.priority) FROM {deliveries} d WHERE d.phase <= 1)
    UNION ALL
    SELECT (SELECT max(d.priority) FROM {deliveries} d WHERE d.phase <= 1 AND d.priority < l.priority)
    FROM levels l WHERE l.priority IS NOT NULL
), waiting AS MATERIALIZED (
    SELECT x.id FROM levels l CROSS JOIN LATERAL (
        SELECT d.id FROM {deliveries} d
        WHERE d.phase <= 1 AND d.priority = l.priority AND d.channel = $2 AND d.due_at > $1
            AND d.phase = 0 AND (d.after_channel = '' OR d.fence > 0)
        ORDER BY d.due_at LIMIT $3
    ) x LIMIT $3
), hurried AS (
    UPDATE {deliveries} d SET due_at = $1 FROM waiting w WHERE d.id = w.id AND d.phase = 0 AND d.due_at > $1
    RETURNING 1
), unparked AS (
    UPDATE {deliveries} d SET state = 0, due_at = $1, updated_at = $1
    WHERE d.phase = 27 AND d.id = ANY (ARRAY(SELECT p.id FROM {deliveries} p WHERE p.phase = 27 AND p.channel = $2 LIMIT $3))
    RETURNING 1
)
SELECT (SELECT count(*) FROM hurried) + (SELECT count(*) FROM unparked)
