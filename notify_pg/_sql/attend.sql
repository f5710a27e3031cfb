-- Makes this tracker's rows of some users as they should be, and renews its lease.
WITH lease AS (
    INSERT INTO {trackers} (tracker, expires_at) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
    ON CONFLICT (tracker) DO UPDATE SET expires_at = excluded.expires_at
), wanted AS MATERIALIZED (
    SELECT * FROM unnest($4::text[], $5::text[], $6::text[]) AS w (user_id, instance_id, metadata)
), gone AS (
    DELETE FROM {presence} p WHERE p.tracker = $1 AND p.user_id = ANY ($3::text[]) AND NOT EXISTS (
        SELECT FROM wanted w WHERE w.user_id = p.user_id AND w.instance_id = p.instance_id
    )
)
INSERT INTO {presence} AS p (user_id, tracker, instance_id, metadata)
SELECT w.user_id, $1, w.instance_id, w.metadata FROM wanted w
ON CONFLICT (user_id, tracker, instance_id) DO UPDATE SET metadata = excluded.metadata
    WHERE p.metadata <> excluded.metadata
