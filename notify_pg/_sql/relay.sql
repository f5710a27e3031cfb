SELECT * FROM {relay}($1, $2, $3, $4)
