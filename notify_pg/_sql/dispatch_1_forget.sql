-- Erases a user: deliveries in any state, records, digests, preferences, endpoints and counts, and notifications without
-- other recipients; returns how many deliveries. The recipients are read through: there is no index for this.
--
-- Deliveries are locked first, and in the order in which workers lock them.
CREATE OR REPLACE FUNCTION {forget_recipient}(p_user text, p_buckets text) RETURNS integer LANGUAGE plpgsql AS $forget$
DECLARE
    v_ids text[];
    v_gone text[];
    v_count integer;
BEGIN
    SELECT coalesce(array_agg(r.notification_id), '{}') INTO v_ids FROM {recipients} r WHERE r.user_id = p_user;
    PERFORM FROM {deliveries} d WHERE d.notification_id = ANY (v_ids) AND d.user_id = p_user
        ORDER BY (d.state = 0 AND d.fence = 0 AND d.after_channel <> ''), d.id FOR UPDATE;
    DELETE FROM {digest_items} i USING {digests} g WHERE i.digest_id = g.id AND g.user_id = p_user;
    DELETE FROM {digests} g WHERE g.user_id = p_user;
    DELETE FROM {attempts} a USING {deliveries} d
        WHERE a.delivery_id = d.id AND d.notification_id = ANY (v_ids) AND d.user_id = p_user;
    DELETE FROM {deliveries} d WHERE d.notification_id = ANY (v_ids) AND d.user_id = p_user;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    DELETE FROM {recipients} r WHERE r.notification_id = ANY (v_ids) AND r.user_id = p_user;
    SELECT coalesce(array_agg(n.id), '{}') INTO v_gone FROM {notifications} n
        WHERE n.id = ANY (v_ids) AND n.cursor IS NULL
            AND NOT EXISTS (SELECT FROM {recipients} r WHERE r.notification_id = n.id);
    DELETE FROM {digest_items} i WHERE i.notification_id = ANY (v_gone) OR i.digest_id = ANY (v_gone);
    DELETE FROM {requests} r WHERE r.notification_id = ANY (v_gone);
    DELETE FROM {notifications} n WHERE n.id = ANY (v_gone);
    DELETE FROM {preferences} p WHERE p.user_id = p_user;
    DELETE FROM {consents} c WHERE c.user_id = p_user;
    DELETE FROM {endpoints} e WHERE e.user_id = p_user;
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema_name}.{prefix}caps ' || p_user, 0));
    DELETE FROM {cap_verdicts} v WHERE v.user_id = p_user;
    DELETE FROM {cap_counts} c WHERE c.bucket >= p_buckets AND c.bucket < rtrim(p_buckets, '/') || '0';
    RETURN v_count;
END
$forget$;
