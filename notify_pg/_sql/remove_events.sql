-- Removes the events before an id from a range of pages of one partition. By way of the partitioned table, because a
-- role may have no rights on partitions that another one has created since.
WITH gone AS (
    DELETE FROM {events} WHERE ctid >= $1::tid AND ctid < $2::tid AND id < $3 AND id >= $4 AND id < $5 RETURNING 1
)
SELECT count(*) AS count FROM gone
