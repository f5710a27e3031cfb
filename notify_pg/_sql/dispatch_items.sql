SELECT i.joined_at, coalesce((
        SELECT d.provider_id FROM {deliveries} d JOIN {digests} g ON g.user_id = d.user_id
        WHERE d.notification_id = i.notification_id AND g.id = i.digest_id AND d.channel = $4 AND d.endpoint = '' LIMIT 1
    ), ''), {n_notification_columns}
FROM {digest_items} i JOIN {notifications} n ON n.id = i.notification_id
WHERE i.digest_id = $1 AND NOT i.is_cancelled ORDER BY i.number LIMIT $2 OFFSET $3
