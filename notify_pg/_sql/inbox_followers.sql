SELECT f.user_id, f.topic, f.since FROM {follows} f
WHERE f.topic = $1 AND f.user_id > $2 AND NOT f.is_merged ORDER BY f.user_id LIMIT $3
