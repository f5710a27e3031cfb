SELECT last_id FROM {heads} WHERE user_id = $1
