-- A wake message is only a hint: its commit does not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), (SELECT count(pg_notify($1, p)) FROM unnest($2::text[]) AS p)
