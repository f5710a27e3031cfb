UPDATE {endpoints} SET
    failures = CASE WHEN $4 THEN 0 ELSE failures + 1 END,
    failing_since = CASE WHEN $4 THEN NULL ELSE coalesce(failing_since, $3) END,
    last_success_at = CASE WHEN $4 THEN $3 ELSE last_success_at END
WHERE id = $1 AND generation = $2 RETURNING {endpoint_columns}
