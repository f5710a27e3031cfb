-- Makes deliveries of a channel due now: at most $3 that wait and $3 that are parked. Returns how many it made due, and how
-- many it found: if fewer than $3, none is left.
WITH RECURSIVE levels (priority) AS (
    (SELECT max(d.priority) FROM {deliveries} d WHERE d.phase = 0)
    UNION ALL
    SELECT (SELECT max(d.priority) FROM {deliveries} d WHERE d.phase = 0 AND d.priority < l.priority)
    FROM levels l WHERE l.priority IS NOT NULL
), found (id) AS MATERIALIZED (
    (SELECT x.id FROM levels l CROSS JOIN LATERAL (
        SELECT d.id FROM {deliveries} d
        WHERE d.phase = 0 AND d.priority = l.priority AND d.channel = $2 AND d.due_at > $1
            AND d.state = 0 AND (d.after_channel = '' OR d.fence > 0)
        ORDER BY d.due_at LIMIT $3
    ) x LIMIT $3)
    UNION ALL
    (SELECT p.id FROM {deliveries} p WHERE p.phase = 27 AND p.channel = $2 LIMIT $3)
), locked AS MATERIALIZED (  -- in the order of all other calls
    SELECT d.id FROM {deliveries} d
    WHERE d.id = ANY (ARRAY(SELECT f.id FROM found f)) AND (d.state = 27 OR d.state = 0 AND d.due_at > $1)
    ORDER BY d.id FOR UPDATE
), hurried AS (
    UPDATE {deliveries} d
    SET state = 0, due_at = $1, updated_at = CASE d.state WHEN 27 THEN $1 ELSE d.updated_at END
    WHERE d.id = ANY (ARRAY(SELECT l.id FROM locked l))
    RETURNING 1
)
SELECT (SELECT count(*) FROM hurried) AS hurried, (SELECT count(*) FROM found) AS found
