SELECT {d_delivery_columns}, {n_notification_columns}, {r_recipient_columns}
FROM {deliveries} d
JOIN {notifications} n ON n.id = d.notification_id
JOIN {recipients} r ON r.notification_id = d.notification_id AND r.user_id = d.user_id
WHERE d.id = $1
