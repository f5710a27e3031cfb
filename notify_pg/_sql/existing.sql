-- Reads the catalog itself: `to_regclass` may answer from a cache.
SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
