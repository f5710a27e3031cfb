SELECT {n_notification_columns}, {r_recipient_columns},
    (
        SELECT json_agg(json_build_array({d_delivery_columns}) ORDER BY d.channel, d.endpoint)
        FROM {deliveries} d WHERE d.notification_id = r.notification_id AND d.user_id = r.user_id
    ),
    (
        SELECT json_agg(json_build_array(a.delivery_id, a.at, a.fence, a.state, a.reason, a.error, a.is_late)
            ORDER BY a.at, a.fence)
        FROM {deliveries} d JOIN {attempts} a ON a.delivery_id = d.id
        WHERE d.notification_id = r.notification_id AND d.user_id = r.user_id
    )
FROM {recipients} r JOIN {notifications} n ON n.id = r.notification_id
WHERE r.notification_id = $1 AND r.user_id = $2
