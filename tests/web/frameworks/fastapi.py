"""FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response

from notify import Notifier
from notify.web.starlette import event_stream
from tests.web.frameworks import parts
from tests.web.frameworks.starlette import PassThrough


def app(notifier: Notifier, *, middleware: str = "", **options: Any) -> parts.App:
    app = FastAPI()

    @app.get("/live/{user}")
    async def live(request: Request, user: str) -> Response:
        return event_stream(request, notifier, user, **options)

    @app.get("/sync/{user}")
    def live_sync(request: Request, user: str) -> Response:
        return event_stream(request, notifier, user, **options)

    @app.get("/plain/{user}")
    async def plain(user: str) -> StreamingResponse:
        return StreamingResponse(parts.frames(notifier, user), media_type=parts.SSE)

    app.mount("/notify", parts.web(notifier))
    if middleware == "gzip":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    elif middleware == "base":
        app.add_middleware(PassThrough)
    return app
