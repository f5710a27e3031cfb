SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint AS pages
