-- Those of some tables that exist: one that a later release added may not have been created yet.
SELECT t AS name FROM unnest($1::text[]) AS t WHERE to_regclass(t) IS NOT NULL
