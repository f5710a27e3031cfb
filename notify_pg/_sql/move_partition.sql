-- Moves a range of the default partition into a partition of its own. The partitioned table is locked first: a query that
-- was planned before and waits for the default partition only would look for the events where they no longer are.
LOCK TABLE ONLY {events} IN ACCESS EXCLUSIVE MODE;
CREATE TABLE {partition} (LIKE {events} INCLUDING ALL);
WITH moved AS (DELETE FROM {events_default} WHERE id >= {low} AND id < {high} RETURNING *)
INSERT INTO {partition} SELECT * FROM moved;
ALTER TABLE {events} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high});
