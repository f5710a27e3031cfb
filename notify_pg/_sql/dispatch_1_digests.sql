-- Closes a digest and stores its notification, with the id of the digest; returns whether it was open.
CREATE OR REPLACE FUNCTION {close_digest}(p_id text, p_now bigint) RETURNS boolean LANGUAGE plpgsql AS $close$
DECLARE
    v_user text;
    v_type text;
    v_channels text;
    v_address bytea;
BEGIN
    UPDATE {digests} g SET is_open = false WHERE g.id = p_id AND g.is_open
        RETURNING g.user_id, g.type, g.channels INTO v_user, v_type, v_channels;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT r.address INTO v_address
        FROM {digest_items} i JOIN {recipients} r ON r.notification_id = i.notification_id AND r.user_id = v_user
        WHERE i.digest_id = p_id AND length(r.address) > 0 ORDER BY i.number DESC LIMIT 1;
    INSERT INTO {notifications} (id, type, data, created_at, digest_id, meta)
        VALUES (p_id, v_type, convert_to('{}', 'UTF8'), p_now, p_id, convert_to('{}', 'UTF8'));
    INSERT INTO {recipients} (notification_id, user_id, decisions, address)
        VALUES (p_id, v_user, convert_to('[]', 'UTF8'), coalesce(v_address, ''::bytea));
    -- the id is that of `notify.dispatch.abc.delivery_id`
    INSERT INTO {deliveries} (id, notification_id, user_id, channel, endpoint, state, due_at, priority, after_channel,
            delay, fence, attempts, reason, provider_id, updated_at)
        SELECT left(encode(sha256(convert_to(
                    length(p_id) || ':' || p_id || length(v_user) || ':' || v_user || length(c) || ':' || c || '0:', 'UTF8'
                )), 'hex'), 32),
            p_id, v_user, c, '', 0, p_now, 0, '', 0, 0, 0, '', '', p_now
        FROM json_array_elements_text(v_channels::json) AS c
        ON CONFLICT DO NOTHING;
    RETURN true;
END
$close$;

-- Puts a notification into the open digest of a key, which is opened if need be; closes it at its limit.
--
-- The item is inserted first, so of two transactions that put the same notification there one waits for the other and
-- changes nothing. The row of the open digest is locked until the commit, so joining and closing exclude each other.
CREATE OR REPLACE FUNCTION {join_digest}(
    p_key text,
    p_notification text,
    p_user text,
    p_type text,
    p_channels text,         -- a JSON array
    p_closes_at bigint,
    p_due_at bigint,
    p_slides bigint,         -- milliseconds from the opening to the ceiling; NULL: the end stays
    p_limit integer,
    p_now bigint
) RETURNS void LANGUAGE plpgsql AS $join$
DECLARE
    v_number bigint;
    v_generation bigint;
    v_id text;
    v_count integer := 1;
    v_open record;
BEGIN
    INSERT INTO {digest_items} (key, notification_id, digest_id, joined_at)
        VALUES (p_key, p_notification, '', p_now) ON CONFLICT DO NOTHING RETURNING number INTO v_number;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    LOOP
        SELECT g.id, g.opened_at + p_slides AS ceiling, g.count INTO v_open
            FROM {digests} g WHERE g.key = p_key AND g.is_open FOR UPDATE;
        IF FOUND THEN
            v_id := v_open.id;
            v_count := v_open.count + 1;
            UPDATE {digests} g SET
                type = p_type,
                channels = p_channels,
                count = g.count + 1,
                -- greatest and least leave out what is NULL
                closes_at = CASE WHEN p_slides IS NULL THEN g.closes_at
                    ELSE greatest(g.closes_at, least(p_closes_at, v_open.ceiling)) END,
                due_at = CASE WHEN p_slides IS NULL THEN g.due_at
                    WHEN p_closes_at <= v_open.ceiling THEN greatest(g.due_at, p_due_at)
                    ELSE greatest(g.due_at, v_open.ceiling) END
                WHERE g.id = v_id;
            EXIT;
        END IF;
        -- it grows with the time, so that a number is not used again after digests have been purged
        SELECT greatest(p_now, 1 + coalesce(max(g.generation), 0)) INTO v_generation
            FROM {digests} g WHERE g.key = p_key;
        -- the id is that of `notify.dispatch.abc.digest_id`
        v_id := left(encode(sha256(convert_to(length(p_key) || ':' || p_key, 'UTF8')), 'hex'), 32) || ':' || v_generation;
        INSERT INTO {digests} (id, key, generation, is_open, user_id, type, channels, opened_at, closes_at, due_at, count)
            VALUES (v_id, p_key, v_generation, true, p_user, p_type, p_channels, p_now, p_closes_at, p_due_at, 1)
            ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
    END LOOP;
    UPDATE {digest_items} SET digest_id = v_id WHERE number = v_number;
    IF v_count >= p_limit THEN
        PERFORM {close_digest}(v_id, p_now);
    END IF;
END
$join$;

-- Closes digests that are due, the earliest first; returns how many. What another transaction joins comes later.
CREATE OR REPLACE FUNCTION {close_digests}(p_now bigint, p_limit integer) RETURNS integer LANGUAGE plpgsql AS $closes$
DECLARE
    v_id text;
    v_count integer := 0;
BEGIN
    FOR v_id IN
        SELECT g.id FROM {digests} g WHERE g.is_open AND g.due_at <= p_now
        ORDER BY g.due_at, g.id LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        v_count := v_count + {close_digest}(v_id, p_now)::integer;
    END LOOP;
    RETURN v_count;
END
$closes$;

-- Takes a notification out of the digests that are open; returns out of how many.
CREATE OR REPLACE FUNCTION {leave_digests}(p_notification text, p_user text, p_channels text)
RETURNS integer LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
AS $leave$
DECLARE
    v_item record;
    v_count integer := 0;
    v_keys text[];  -- of the user's digests, which are few: a notification may be in many digests of others
BEGIN
    IF p_user IS NOT NULL THEN
        v_keys := ARRAY(SELECT g.key FROM {digests} g WHERE g.user_id = p_user AND g.is_open);
        IF v_keys = '{}' THEN
            RETURN 0;
        END IF;
    END IF;
    FOR v_item IN
        SELECT i.number, g.id FROM {digest_items} i JOIN {digests} g ON g.id = i.digest_id
        WHERE i.notification_id = p_notification AND (v_keys IS NULL OR i.key = ANY (v_keys)) AND NOT i.is_cancelled
            AND g.is_open AND coalesce(g.channels = p_channels, true)
        ORDER BY g.id FOR UPDATE OF g
    LOOP
        UPDATE {digest_items} SET is_cancelled = true WHERE number = v_item.number AND NOT is_cancelled;
        IF FOUND THEN
            UPDATE {digests} SET count = count - 1 WHERE id = v_item.id;
            v_count := v_count + 1;
        END IF;
    END LOOP;
    RETURN v_count;
END
$leave$;
