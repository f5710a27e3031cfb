-- Attached and not created as a partition: that takes a lock which reads and writes of the others do not mind.
CREATE TABLE {partition} (LIKE {events} INCLUDING ALL);
ALTER TABLE {events} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high});
