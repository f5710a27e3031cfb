UPDATE {deliveries} SET
    opened_at = coalesce(opened_at, $2),
    clicked_at = CASE WHEN $3 THEN coalesce(clicked_at, $2) ELSE clicked_at END
WHERE id = $1 RETURNING {delivery_columns}
