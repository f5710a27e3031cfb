SELECT user_id FROM {heads} WHERE user_id = ANY ($1) FOR UPDATE SKIP LOCKED
