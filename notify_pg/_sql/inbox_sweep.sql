SELECT * FROM {sweep_inboxes}($1, $2, $3, $4, $5, $6)
