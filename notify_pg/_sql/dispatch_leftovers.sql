-- Removes keys, retired endpoints and gates that ended before $1, endpoints of sessions last seen before $1, and counts
-- for caps that have expired by this server's clock.
WITH clock AS MATERIALIZED (
    SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint AS now
), gone AS (
    DELETE FROM {requests} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {requests} WHERE keep_until < $1 LIMIT $2)) RETURNING 1
), retired AS (
    DELETE FROM {endpoints} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {endpoints} WHERE retired_at < $1 LIMIT $2))
    RETURNING 1
), left_behind AS (
    DELETE FROM {endpoints} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {endpoints}
        WHERE session > '' AND user_id = '' AND retired_at IS NULL AND last_seen_at < $1 LIMIT $2
    )) RETURNING 1
), opened AS (
    DELETE FROM {gates} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {gates} WHERE until < $1 LIMIT $2)) RETURNING 1
), counts AS (
    DELETE FROM {cap_counts}
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM {cap_counts} WHERE expires_at <= (SELECT now FROM clock) LIMIT $2))
    RETURNING 1
), verdicts AS (
    DELETE FROM {cap_verdicts}
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM {cap_verdicts} WHERE expires_at <= (SELECT now FROM clock) LIMIT $2))
    RETURNING 1
)
SELECT greatest((SELECT count(*) FROM gone), (SELECT count(*) FROM retired), (SELECT count(*) FROM opened),
    (SELECT count(*) FROM counts), (SELECT count(*) FROM verdicts), (SELECT count(*) FROM left_behind))
