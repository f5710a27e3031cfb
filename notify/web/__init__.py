"""Notifications in a browser: an ASGI application with server-sent events, WebSocket and polling."""
