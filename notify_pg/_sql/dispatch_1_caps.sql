-- Checks all windows of a user, then counts a notification in all of them; returns -1, or the number of a full window.
-- The counts of one user are locked until the commit, by number, since what is counted has no row yet.
CREATE OR REPLACE FUNCTION {admit_notification}(
    p_notification text,
    p_user text,
    p_buckets text[],
    p_limits integer[],
    p_ends bigint[],
    p_now bigint,
    p_always boolean         -- count and admit whatever the limits say
) RETURNS integer LANGUAGE plpgsql AS $admit$
DECLARE
    v_verdict integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema_name}.{prefix}caps ' || p_user, 0));
    SELECT v.verdict INTO v_verdict FROM {cap_verdicts} v
        WHERE v.notification_id = p_notification AND v.user_id = p_user;
    IF v_verdict = -1 OR (v_verdict IS NOT NULL AND NOT p_always) THEN
        RETURN v_verdict;
    END IF;
    v_verdict := -1;
    IF NOT p_always THEN
        SELECT coalesce(min(w.n) - 1, -1)::integer INTO v_verdict
            FROM unnest(p_buckets, p_limits) WITH ORDINALITY AS w(bucket, lim, n)
            WHERE (SELECT count(*) FROM {cap_counts} c WHERE c.bucket = w.bucket AND c.expires_at > p_now) >= w.lim;
    END IF;
    INSERT INTO {cap_verdicts} (notification_id, user_id, verdict, expires_at)
        VALUES (p_notification, p_user, v_verdict, (SELECT max(e) FROM unnest(p_ends) AS e))
        ON CONFLICT (notification_id, user_id) DO UPDATE SET
            verdict = excluded.verdict, expires_at = excluded.expires_at;
    IF v_verdict = -1 THEN
        INSERT INTO {cap_counts} AS c (bucket, notification_id, expires_at)
            SELECT DISTINCT ON (w.bucket) w.bucket, p_notification, w.ends FROM unnest(p_buckets, p_ends) AS w(bucket, ends)
            ON CONFLICT (bucket, notification_id) DO UPDATE SET expires_at = excluded.expires_at;
    END IF;
    RETURN v_verdict;
END
$admit$;

-- Forgets the verdict about a notification, and its counts.
CREATE OR REPLACE FUNCTION {refund_notification}(p_notification text, p_user text, p_buckets text[])
RETURNS void LANGUAGE plpgsql AS $refund$
DECLARE
    v_verdict integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema_name}.{prefix}caps ' || p_user, 0));
    DELETE FROM {cap_verdicts} v WHERE v.notification_id = p_notification AND v.user_id = p_user
        RETURNING v.verdict INTO v_verdict;
    IF v_verdict = -1 THEN
        DELETE FROM {cap_counts} c WHERE c.bucket = ANY (p_buckets) AND c.notification_id = p_notification;
    END IF;
END
$refund$;
