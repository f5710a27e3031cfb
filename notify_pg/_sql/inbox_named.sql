SELECT * FROM {inbox_named}($1, $2, $3, $4, $5, $6)
