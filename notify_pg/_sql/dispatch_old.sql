-- Old notifications of which nothing is open, neither a delivery of their own nor a digest that they are in.
SELECT n.id FROM {notifications} n
WHERE n.created_at < $1
    AND NOT EXISTS (SELECT FROM {deliveries} d WHERE d.notification_id = n.id AND d.state < 10)
    AND NOT EXISTS (
        SELECT FROM {digest_items} i JOIN {digests} g ON g.id = i.digest_id
        WHERE i.notification_id = n.id AND (
            g.is_open OR EXISTS (SELECT FROM {deliveries} d WHERE d.notification_id = g.id AND d.state < 10)
        )
    )
ORDER BY n.created_at LIMIT $2
