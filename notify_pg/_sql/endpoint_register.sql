INSERT INTO {endpoints} AS e (user_id, channel, address, kind, meta, session, id, generation, created_at, last_seen_at,
    failures, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8, 0, '')
ON CONFLICT (id) DO UPDATE SET
    user_id = excluded.user_id, meta = excluded.meta, session = excluded.session, generation = e.generation + 1,
    last_seen_at = excluded.last_seen_at, failures = 0, failing_since = NULL, retired_at = NULL, reason = ''
RETURNING {endpoint_columns}
