SELECT * FROM {claim_deliveries}($1, $2, $3, $4)
