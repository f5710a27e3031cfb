WITH gone AS (DELETE FROM {presence} WHERE tracker = $1) DELETE FROM {trackers} WHERE tracker = $1
