UPDATE {endpoints} SET retired_at = $4, reason = $3
WHERE id = $1 AND retired_at IS NULL AND ($2 = 0 OR generation = $2) RETURNING id
