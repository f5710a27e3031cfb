WITH hurried AS (
    UPDATE {deliveries} SET due_at = $1
    WHERE phase = 0 AND due_at > $1 AND (after_channel = '' OR fence > 0)
        AND user_id = $2 AND coalesce(channel = $3, attempts = 0)
    RETURNING 1
), unparked AS (
    UPDATE {deliveries} SET state = 0, due_at = $1, updated_at = $1
    WHERE $3::text IS NOT NULL AND state = 27 AND phase = 3 AND channel = $3 AND user_id = $2
    RETURNING 1
)
SELECT (SELECT count(*) FROM hurried) + (SELECT count(*) FROM unparked)
