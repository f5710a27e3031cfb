-- `CREATE SCHEMA IF NOT EXISTS` would need the right to create one even where it exists.
DO $schema$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema_name}') THEN
        CREATE SCHEMA {schema};
    END IF;
END
$schema$;
