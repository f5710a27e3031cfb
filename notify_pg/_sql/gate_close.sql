INSERT INTO {gates} AS g (gate, until) VALUES ($1, $2)
ON CONFLICT (gate) DO UPDATE SET until = greatest(g.until, excluded.until)
