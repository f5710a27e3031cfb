SELECT {pull_inbox}($1, $2, $3, $4, $5) AS pulled
