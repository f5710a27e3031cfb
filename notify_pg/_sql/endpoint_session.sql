SELECT {endpoint_columns} FROM {endpoints}
WHERE session = $1 AND user_id = '' AND retired_at IS NULL ORDER BY channel, id
