-- Makes waiting deliveries of a user due now, of one channel ($3) if given: then also retries and parked ones. Returns how many.
WITH found (id) AS MATERIALIZED (
    SELECT w.id FROM {deliveries} w
    WHERE w.phase = 0 AND w.state = 0 AND w.due_at > $1 AND (w.after_channel = '' OR w.fence > 0)
        AND w.user_id = $2 AND coalesce(w.channel = $3, w.attempts = 0)
    UNION ALL
    SELECT p.id FROM {deliveries} p WHERE p.phase = 27 AND p.channel = $3 AND p.user_id = $2
), locked AS MATERIALIZED (  -- locked in the order of all other calls
    SELECT d.id FROM {deliveries} d
    WHERE d.id = ANY (ARRAY(SELECT f.id FROM found f)) AND CASE d.state
        WHEN 27 THEN d.channel = $3
        WHEN 0 THEN d.due_at > $1 AND coalesce(d.channel = $3, d.attempts = 0)
    END
    ORDER BY d.id FOR UPDATE
), hurried AS (
    UPDATE {deliveries} d
    SET state = 0, due_at = $1, updated_at = CASE d.state WHEN 27 THEN $1 ELSE d.updated_at END
    WHERE d.id = ANY (ARRAY(SELECT l.id FROM locked l))
    RETURNING 1
)
SELECT count(*) FROM hurried
