-- The channels of all open deliveries; each step finds the next entry of the index that has another priority or channel.
WITH RECURSIVE found (priority, channel) AS (
    (SELECT d.priority, d.channel FROM {deliveries} d WHERE d.phase = 0 ORDER BY d.priority, d.channel LIMIT 1)
    UNION ALL
    SELECT x.priority, x.channel FROM found f CROSS JOIN LATERAL (
        SELECT d.priority, d.channel FROM {deliveries} d
        WHERE d.phase = 0 AND (d.priority, d.channel) > (f.priority, f.channel)
        ORDER BY d.priority, d.channel LIMIT 1
    ) x
)
SELECT DISTINCT channel FROM found ORDER BY channel
