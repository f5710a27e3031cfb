-- A doorbell is only a hint: its commit need not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), (SELECT count(pg_notify($1, p)) FROM unnest($2::text[]) AS p)
