-- Renews this tracker's lease and counts its rows; removes what the dead have left.
WITH lease AS (
    INSERT INTO {trackers} (tracker, expires_at) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
    ON CONFLICT (tracker) DO UPDATE SET expires_at = excluded.expires_at
), dead AS (
    DELETE FROM {trackers} t WHERE t.expires_at < clock_timestamp() - make_interval(secs => $2) AND t.tracker <> $1
    RETURNING t.tracker
), gone AS (
    DELETE FROM {presence} p WHERE p.tracker IN (SELECT d.tracker FROM dead d)
)
SELECT count(*) AS count FROM {presence} p WHERE p.tracker = $1
