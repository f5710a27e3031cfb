-- A role that does not own the tables can do only a part of it, so it leaves the turn to one that does.
UPDATE {meta} SET maintained = now()
WHERE maintained < now() - make_interval(secs => $1 * CASE WHEN $2 THEN 1 ELSE 2 END)
RETURNING (date_part('epoch', now()) * 1000)::bigint AS now_ms
