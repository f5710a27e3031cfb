"""Notifications in a browser: an ASGI application with server-sent events, WebSocket and polling."""

from ._mount import mount as mount

__all__ = ["mount"]
