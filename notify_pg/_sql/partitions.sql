-- The partitions of the events; the name is null for one in another schema.
SELECT CASE WHEN n.nspname = $2 THEN c.relname::text END AS name, pg_get_expr(c.relpartbound, c.oid) AS bound,
    pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages,
    pg_has_role(c.relowner, 'USAGE') AS is_owned
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = to_regclass($1)
