"""Quart, with the mounted application beside it."""

from __future__ import annotations

from typing import Any

from quart import Quart, Response, request

from notify import Notifier
from notify.web import mount
from notify.web.quart import event_stream
from tests.web.frameworks import parts


def app(notifier: Notifier, *, middleware: str = "", **options: Any) -> parts.App:
    app = Quart(__name__)
    app.config["RESPONSE_TIMEOUT"] = 0.7

    @app.get("/live/<user>")
    async def live(user: str) -> Response:
        return event_stream(request, notifier, user, **options)

    @app.get("/sync/<user>")
    def live_sync(user: str) -> Response:
        return event_stream(request, notifier, user, **options)

    @app.get("/plain/<user>")
    async def plain(user: str) -> Response:
        response = Response(parts.frames(notifier, user), content_type=parts.SSE)
        response.timeout = None
        return response

    app.asgi_app = mount("/notify", parts.web(notifier), app.asgi_app)  # type: ignore[method-assign]
    return app
