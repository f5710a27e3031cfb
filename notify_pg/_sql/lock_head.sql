-- Locks the user's log, also one that does not exist yet: saves of this user wait until the transaction ends. The second
-- column: milliseconds until the server's clock has passed the last id.
INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total) VALUES ($1, 0, 0, 0, 0)
ON CONFLICT (user_id) DO UPDATE SET step = 0
RETURNING (h.last_id >> 20) + 1 - floor(date_part('epoch', clock_timestamp()) * 1000)::bigint AS ahead
