SELECT {leave_topic}($1, $2) AS count
