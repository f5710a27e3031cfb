-- Which of these indexes exist, and whether each is valid: not while CREATE INDEX CONCURRENTLY runs, nor if it failed.
SELECT c.relname::text AS name, i.indisvalid AS is_valid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[])
