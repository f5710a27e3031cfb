-- Moves what committed transactions have left in the outbox to the logs, in one transaction, in order.
--
-- One relay works at a time, since a second one could overtake the first. It does not wait, but moves nothing.
CREATE OR REPLACE FUNCTION {relay}(
    p_lock bigint,
    p_limit integer,
    p_max_len bigint,
    p_key_window bigint,
    OUT moved integer,
    OUT users text[]
) LANGUAGE plpgsql AS $relay$
DECLARE
    v_micros bigint[];
    v_types text[];
    v_data bytea[];
    v_topics text[];
    v_keys text[];
    v_metas text[];
BEGIN
    moved := 0;
    IF NOT pg_try_advisory_xact_lock(p_lock) THEN
        RETURN;
    END IF;
    WITH taken AS (
        DELETE FROM {outbox} o WHERE o.id IN (
            SELECT x.id FROM {outbox} x ORDER BY x.id LIMIT p_limit FOR UPDATE SKIP LOCKED
        ) RETURNING o.*
    )
    SELECT count(*), array_agg(t.user_id ORDER BY t.id), array_agg(t.micros ORDER BY t.id),
            array_agg(t.type ORDER BY t.id), array_agg(t.data ORDER BY t.id), array_agg(t.topic ORDER BY t.id),
            CASE WHEN count(t.key) > 0 THEN array_agg(t.key ORDER BY t.id) END, array_agg(t.meta ORDER BY t.id)
        INTO moved, users, v_micros, v_types, v_data, v_topics, v_keys, v_metas
        FROM taken t;
    IF moved > 0 THEN
        PERFORM {save}(NULL, NULL, false, 0, p_max_len, p_key_window,
            users, v_micros, v_types, v_data, v_topics, v_keys, v_metas);
    END IF;
END
$relay$;
