SELECT i.joined_at, {n_notification_columns}
FROM {digest_items} i JOIN {notifications} n ON n.id = i.notification_id
WHERE i.digest_id = $1 AND NOT i.is_cancelled ORDER BY i.number LIMIT $2 OFFSET $3
