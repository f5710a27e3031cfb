SELECT user_id, topic FROM {follows} WHERE user_id = ANY ($1::text[])
