SELECT day FROM (SELECT floor(date_part('epoch', now()) / 86400)::bigint AS today) t,
    generate_series(today, today + $1::bigint) AS day
WHERE NOT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $2 AND c.relname = $3::text || day
)
ORDER BY day
