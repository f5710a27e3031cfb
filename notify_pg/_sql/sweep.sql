-- Removes nonces that no attempt will repeat; only the first process after the interval does so.
WITH turn AS (UPDATE {meta} SET swept = now() WHERE swept < now() - make_interval(secs => $1) RETURNING 1),
gone AS (DELETE FROM {nonces} WHERE born < now() - interval '2 minutes' AND EXISTS (SELECT FROM turn))
SELECT count(*) AS turns FROM turn
