-- The partitions of today and of the next days. Later ones are created by processes that own the table; without them, and
-- where the default partition holds events of a day already, the events of that day stay in the default partition.
DO $days$
DECLARE
    v_today bigint := floor(date_part('epoch', now()) / 86400)::bigint;
    v_name text;
BEGIN
    FOR v_day IN v_today .. v_today + {days_ahead} LOOP
        v_name := format('%I.%I', '{schema_name}', '{prefix}events_' || v_day);
        IF to_regclass(v_name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', v_name, '{events}');
                EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)',
                    '{events}', v_name, v_day * {day}, (v_day + 1) * {day});
            EXCEPTION WHEN check_violation OR invalid_object_definition THEN
                RAISE NOTICE '% is left to the default partition: %', v_name, SQLERRM;
            END;
        END IF;
    END LOOP;
END
$days$;
