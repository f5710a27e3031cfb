SELECT {endpoint_columns} FROM {endpoints}
WHERE user_id = ANY ($1::text[]) AND ($2 OR retired_at IS NULL) ORDER BY channel, id
