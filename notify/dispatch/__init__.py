"""Notifications through the right channel, at the right hour, once."""
