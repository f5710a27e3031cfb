-- What exists of our tables, functions and partitions, what this role may do with them, and whether row level security
-- hides rows from it. The catalog is read directly: `to_regclass` may answer from a cache.
WITH place AS (
    SELECT n.oid FROM pg_namespace n WHERE n.nspname = $1
), found AS (
    SELECT c.oid, c.relname, c.relowner FROM pg_class c JOIN place p ON p.oid = c.relnamespace
    WHERE c.relname = ANY ($2::text[]) AND c.relkind IN ('r', 'p', 'v', 'f')
)
SELECT 'today' AS kind, (floor(date_part('epoch', now()) / 86400)::bigint)::text AS name, NULL::text AS bound,
    NULL::bigint AS pages, false AS is_owned, false AS is_filtered, false AS is_readable
UNION ALL
SELECT 'table', f.relname::text, NULL, NULL, pg_has_role(f.relowner, 'USAGE'), row_security_active(f.oid),
    has_table_privilege(f.oid, 'SELECT')
FROM found f
UNION ALL
SELECT 'key', f.relname::text, NULL, NULL, false, false, false
FROM found f JOIN pg_index i ON i.indrelid = f.oid AND i.indisprimary
UNION ALL
SELECT 'function', r.proname::text, NULL, NULL, false, false, false
FROM pg_proc r JOIN place p ON p.oid = r.pronamespace WHERE r.proname = ANY ($3::text[])
UNION ALL
SELECT 'partition', CASE WHEN c.relnamespace = p.oid THEN c.relname::text END, pg_get_expr(c.relpartbound, c.oid),
    pg_relation_size(c.oid) / current_setting('block_size')::bigint, pg_has_role(c.relowner, 'USAGE'), false, false
FROM place p, found f JOIN pg_inherits i ON i.inhparent = f.oid JOIN pg_class c ON c.oid = i.inhrelid
WHERE f.relname = $4
