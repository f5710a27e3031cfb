"""The files of the browser client, and GET /health."""

from __future__ import annotations

from notify._asgi import Receive, Reply, Request, Send, file_reply

from ._routing import last_segment
from ._site import Site


async def file(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve a file of the browser client."""
    await file_reply(request, last_segment(request.path)).send(send, request.response_headers)


async def health(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /health: 200 if every part of the notifier works, 503 if one does not, or the server is ending.

    Anyone may ask, so the answer names the parts and not what is wrong with them: `Notifier.check` returns that.
    """
    if site.closing.begun:
        parts = {"server": "failed"}
    else:
        parts = {part: "ok" if outcome == "ok" else "failed" for part, outcome in (await site.health.parts()).items()}
    is_ok = "failed" not in parts.values()
    reply = Reply.json({"ok": is_ok, "parts": parts}, 200 if is_ok else 503)
    await reply.send(send, request.response_headers)
