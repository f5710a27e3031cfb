SELECT f.user_id, f.topic, f.since FROM {follows} f
WHERE f.user_id = $1 AND f.topic > $2 AND NOT f.is_merged ORDER BY f.topic LIMIT $3
