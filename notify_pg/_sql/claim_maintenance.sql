UPDATE {meta} SET maintained = now() WHERE maintained < now() - make_interval(secs => $1)
RETURNING (date_part('epoch', now()) * 1000)::bigint AS now_ms
