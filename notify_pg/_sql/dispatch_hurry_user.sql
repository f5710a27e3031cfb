WITH waiting AS MATERIALIZED (  -- locked in the order of all other calls
    SELECT id FROM {deliveries}
    WHERE phase = 0 AND due_at > $1 AND (after_channel = '' OR fence > 0)
        AND user_id = $2 AND coalesce(channel = $3, attempts = 0)
    ORDER BY id FOR UPDATE
), hurried AS (
    UPDATE {deliveries} d SET due_at = $1 FROM waiting w WHERE d.id = w.id
    RETURNING 1
), unparked AS (
    UPDATE {deliveries} SET state = 0, due_at = $1, updated_at = $1
    WHERE $3::text IS NOT NULL AND phase = 27 AND channel = $3 AND user_id = $2
    RETURNING 1
)
SELECT (SELECT count(*) FROM hurried) + (SELECT count(*) FROM unparked)
