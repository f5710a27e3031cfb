-- Which of these logs exist, and whether no other transaction holds them now.
WITH free AS MATERIALIZED (SELECT user_id FROM {heads} WHERE user_id = ANY ($1) FOR UPDATE SKIP LOCKED)
SELECT h.user_id, h.user_id IN (SELECT f.user_id FROM free f) AS free FROM {heads} h WHERE h.user_id = ANY ($1)
