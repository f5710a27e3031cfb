-- Removes due items of some inboxes whose logs no other transaction holds. Call it with the last row of the call before.
CREATE OR REPLACE FUNCTION {sweep_inboxes}(
    p_expiring boolean,      -- whether to look for what expires, or for what is too old
    p_after bigint,          -- continue behind the inbox with this bound, and this user
    p_after_user text,
    p_limit integer,
    p_max_age bigint,
    p_keep_unread boolean,
    OUT removed integer,
    OUT looked integer,      -- at how many inboxes, of at most 100
    OUT bound bigint,        -- of the last one
    OUT last_user text
) LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $sweep$
DECLARE
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon bigint := coalesce((v_now - p_max_age) << 20, 0);
    v_users text[];
    v_bounds bigint[];
    v_user text;
BEGIN
    removed := 0;
    IF p_expiring THEN
        SELECT array_agg(b.user_id), array_agg(b.expiry) INTO v_users, v_bounds FROM (
            SELECT x.user_id, x.expiry FROM {inboxes} x
            WHERE (x.expiry, x.user_id) > (p_after, p_after_user) AND x.expiry <= v_now
            ORDER BY x.expiry, x.user_id LIMIT 100
        ) AS b;
    ELSE
        SELECT array_agg(b.user_id), array_agg(b.oldest) INTO v_users, v_bounds FROM (
            SELECT x.user_id, x.oldest FROM {inboxes} x
            WHERE (x.oldest, x.user_id) > (p_after, p_after_user) AND x.oldest < v_horizon
                AND (x.kept_before < v_horizon OR NOT p_keep_unread)
            ORDER BY x.oldest, x.user_id LIMIT 100
        ) AS b;
    END IF;
    looked := coalesce(cardinality(v_users), 0);
    bound := v_bounds[looked];
    last_user := v_users[looked];
    -- Retention may have removed the row of a log that an inbox has outlived, and only what exists can be locked.
    INSERT INTO {heads} (user_id, last_id, prev_id, step, total)
        SELECT b.user_id, b.position, 0, 0, 0 FROM {inboxes} b
        WHERE b.user_id = ANY (v_users) AND NOT EXISTS (SELECT FROM {heads} h WHERE h.user_id = b.user_id)
        ORDER BY b.user_id
        ON CONFLICT DO NOTHING;
    FOR v_user IN
        SELECT h.user_id FROM {heads} h WHERE h.user_id = ANY (v_users) ORDER BY h.user_id FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN removed >= p_limit;
        removed := removed + {inbox_due}(v_user, v_now, v_horizon, p_keep_unread, p_limit - removed);
    END LOOP;
END
$sweep$;

-- Removes a topic from the inboxes of some of its followers, and returns of how many.
CREATE OR REPLACE FUNCTION {leave_topic}(p_topic text, p_limit integer) RETURNS integer LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $leave$
DECLARE
    v_users text[] := ARRAY(
        SELECT f.user_id FROM {follows} f WHERE f.topic = p_topic AND NOT f.is_merged ORDER BY f.user_id LIMIT p_limit
    );
    v_user text;
BEGIN
    INSERT INTO {heads} AS h (user_id, last_id, prev_id, step, total)
        SELECT u.user_id, 0, 0, 0, 0 FROM unnest(v_users) AS u (user_id) ORDER BY u.user_id COLLATE "C"
        ON CONFLICT (user_id) DO UPDATE SET step = 0;
    FOREACH v_user IN ARRAY v_users LOOP
        PERFORM {inbox_unfollow}(v_user, p_topic);
    END LOOP;
    RETURN cardinality(v_users);
END
$leave$;
