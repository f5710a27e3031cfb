"""Presence: the users with streams open at this notifier, and leases for trackers shared by several processes."""
