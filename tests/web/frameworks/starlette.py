"""Starlette."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from notify import Notifier
from notify.web.starlette import event_stream
from tests.web.frameworks import parts


class PassThrough(BaseHTTPMiddleware):
    """A typical middleware of an application: it adds a header."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-passed"] = "yes"
        return response


def app(notifier: Notifier, *, middleware: str = "", **options: Any) -> parts.App:
    async def live(request: Request) -> Response:
        return event_stream(request, notifier, request.path_params["user"], **options)

    def live_sync(request: Request) -> Response:
        return event_stream(request, notifier, request.path_params["user"], **options)

    async def plain(request: Request) -> Response:
        return StreamingResponse(parts.frames(notifier, request.path_params["user"]), media_type=parts.SSE)

    app = Starlette(
        routes=[
            Route("/live/{user}", live),
            Route("/sync/{user}", live_sync),
            Route("/plain/{user}", plain),
            Mount("/notify", parts.web(notifier)),
        ]
    )
    if middleware == "gzip":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    elif middleware == "base":
        app.add_middleware(PassThrough)
    return app
