SELECT p.user_id, p.instance_id, p.metadata FROM {presence} p JOIN {trackers} t ON t.tracker = p.tracker
WHERE p.user_id = ANY ($1::text[]) AND p.tracker <> $2 AND t.expires_at > clock_timestamp()
