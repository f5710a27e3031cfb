-- Attached rather than created as a partition, since ATTACH takes a lock that blocks no reads or writes of the others.
CREATE TABLE {partition} (LIKE {events} INCLUDING ALL);
ALTER TABLE {events} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high});
