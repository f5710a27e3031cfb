SELECT count(*) AS dead FROM (SELECT FROM {outbox_dead} LIMIT $1) AS d
