-- Counts and a page of items, newest first, from one snapshot. The first row has no id and describes the inbox. Where a
-- topic has news, that row is the only one, unless this is asked for: they are to be copied first.
CREATE OR REPLACE FUNCTION {inbox_page}(
    p_user text,
    p_max_age bigint,        -- milliseconds; NULL: without a limit
    p_keep_unread boolean,
    p_before bigint,         -- this and the next: items before this key
    p_before_log text,
    p_state text,
    p_types text[],          -- NULL: of all
    p_group text,            -- NULL: of all
    p_limit integer,
    p_ignores_news boolean
) RETURNS TABLE (
    id bigint, log text, group_name text, seen_at bigint, read_at bigint, dismissed_at bigint, expires_at bigint,
    micros bigint, type text, data bytea, meta text,
    last bigint, total integer, unseen integer, unread integer, topics text[], positions bigint[], has_news boolean
) LANGUAGE plpgsql STABLE
SET enable_seqscan = off     -- this and the next: without statistics, a page would be sorted out of the whole inbox
SET enable_bitmapscan = off
AS $page$
DECLARE
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon bigint := coalesce((v_now - p_max_age) << 20, 0);
BEGIN
    SELECT c.last, c.total, c.unseen, c.unread, c.topics, c.positions, c.has_news
        INTO last, total, unseen, unread, topics, positions, has_news
        FROM {inbox_counts}(p_user, v_now, v_horizon, p_keep_unread) AS c;
    RETURN NEXT;
    IF p_limit > 0 AND (p_ignores_news OR NOT has_news) THEN
        RETURN QUERY
            SELECT i.id, i.log, i.group_name, i.seen_at, i.read_at, i.dismissed_at, i.expires_at, i.micros, i.type, i.data,
                i.meta, NULL::bigint, NULL::integer, NULL::integer, NULL::integer, NULL::text[], NULL::bigint[], NULL::boolean
            FROM {items} i
            WHERE i.user_id = p_user AND (i.id, i.log) < (p_before, p_before_log)
                AND CASE p_state WHEN 'active' THEN i.dismissed_at IS NULL WHEN 'unread' THEN i.read_at IS NULL
                    WHEN 'read' THEN i.dismissed_at IS NULL AND i.read_at IS NOT NULL
                    WHEN 'dismissed' THEN i.dismissed_at IS NOT NULL ELSE true END
                AND (p_types IS NULL OR i.type = ANY (p_types)) AND (p_group IS NULL OR i.group_name = p_group)
                AND (i.expires_at IS NULL OR i.expires_at > v_now)
                AND (i.id >= v_horizon OR (p_keep_unread AND i.read_at IS NULL))
            ORDER BY i.id DESC, i.log DESC LIMIT p_limit;
    END IF;
END
$page$;

-- Counts, and the items with these keys, from one snapshot; the rows are like those of a page.
CREATE OR REPLACE FUNCTION {inbox_named}(
    p_user text, p_max_age bigint, p_keep_unread boolean, p_ids bigint[], p_logs text[], p_ignores_news boolean
) RETURNS TABLE (
    id bigint, log text, group_name text, seen_at bigint, read_at bigint, dismissed_at bigint, expires_at bigint,
    micros bigint, type text, data bytea, meta text,
    last bigint, total integer, unseen integer, unread integer, topics text[], positions bigint[], has_news boolean
) LANGUAGE plpgsql STABLE
SET enable_seqscan = off     -- this and the next: a plan for the few rows of the beginning would be kept
SET enable_bitmapscan = off
AS $named$
DECLARE
    v_now bigint := floor(date_part('epoch', clock_timestamp()) * 1000)::bigint;
    v_horizon bigint := coalesce((v_now - p_max_age) << 20, 0);
BEGIN
    SELECT c.last, c.total, c.unseen, c.unread, c.topics, c.positions, c.has_news
        INTO last, total, unseen, unread, topics, positions, has_news
        FROM {inbox_counts}(p_user, v_now, v_horizon, p_keep_unread) AS c;
    RETURN NEXT;
    IF p_ignores_news OR NOT has_news THEN
        RETURN QUERY
            SELECT i.id, i.log, i.group_name, i.seen_at, i.read_at, i.dismissed_at, i.expires_at, i.micros, i.type, i.data,
                i.meta, NULL::bigint, NULL::integer, NULL::integer, NULL::integer, NULL::text[], NULL::bigint[], NULL::boolean
            FROM unnest(p_ids, p_logs) AS k(id, log)
            CROSS JOIN LATERAL ( -- one look into the index for each
                SELECT * FROM {items} x WHERE x.user_id = p_user AND x.id = k.id AND x.log = k.log OFFSET 0
            ) AS i
            WHERE (i.expires_at IS NULL OR i.expires_at > v_now)
                AND (i.id >= v_horizon OR (p_keep_unread AND i.read_at IS NULL));
    END IF;
END
$named$
