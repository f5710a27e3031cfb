"""One small application in each framework, all with the same URLs, and uvicorn in this process to serve them.

| Path | What |
|---|---|
| `/notify/...` | a `NotifyApp`, mounted as the framework can |
| `/live/USER` | `event_stream` |
| `/plain/USER` | the framework's own streaming response over `async for`, without `async with` |
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import litestar
import uvicorn
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import StreamingHttpResponse
from django.test.utils import override_settings
from django.urls import path as django_path
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
from litestar.config.compression import CompressionConfig
from litestar.response import Stream as LitestarStream
from quart import Quart
from quart import Response as QuartResponse
from quart import request as quart_request
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from notify import Notifier
from notify.web import NotifyApp, mount
from notify.web.django import event_stream as django_stream
from notify.web.litestar import event_stream as litestar_stream
from notify.web.quart import event_stream as quart_stream
from notify.web.starlette import event_stream as starlette_stream
from tests.parts import until

App = Callable[..., Awaitable[None]]
Make = Callable[..., App]
SSE = "text/event-stream"

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=None, USE_TZ=True)


async def frames(notifier: Notifier, user: str) -> AsyncIterator[str]:
    """The loop that people write."""
    async for event in notifier.subscribe(user, "0"):
        yield f"data: {json.dumps(event.payload)}\n\n"


def web(notifier: Notifier, **options: Any) -> NotifyApp:
    return NotifyApp(notifier, lambda request: request.query.get("user"), **options)


class PassThrough(BaseHTTPMiddleware):
    """What people write: a middleware that adds a header."""

    async def dispatch(self, request: StarletteRequest, call_next: Any) -> StarletteResponse:
        response: StarletteResponse = await call_next(request)
        response.headers["x-passed"] = "yes"
        return response


def starlette_app(notifier: Notifier, *, middleware: str = "", **options: Any) -> App:
    async def live(request: StarletteRequest) -> StarletteResponse:
        return starlette_stream(request, notifier, request.path_params["user"], **options)

    def live_sync(request: StarletteRequest) -> StarletteResponse:
        return starlette_stream(request, notifier, request.path_params["user"], **options)

    async def plain(request: StarletteRequest) -> StarletteResponse:
        return StreamingResponse(frames(notifier, request.path_params["user"]), media_type=SSE)

    app = Starlette(
        routes=[
            Route("/live/{user}", live),
            Route("/sync/{user}", live_sync),
            Route("/plain/{user}", plain),
            Mount("/notify", web(notifier)),
        ]
    )
    if middleware == "gzip":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    elif middleware == "base":
        app.add_middleware(PassThrough)
    return app


def fastapi_app(notifier: Notifier, *, middleware: str = "", **options: Any) -> App:
    app = FastAPI()

    @app.get("/live/{user}")
    async def live(request: FastAPIRequest, user: str) -> StarletteResponse:
        return starlette_stream(request, notifier, user, **options)

    @app.get("/sync/{user}")
    def live_sync(request: FastAPIRequest, user: str) -> StarletteResponse:
        return starlette_stream(request, notifier, user, **options)

    @app.get("/plain/{user}")
    async def plain(user: str) -> FastAPIStreamingResponse:
        return FastAPIStreamingResponse(frames(notifier, user), media_type=SSE)

    app.mount("/notify", web(notifier))
    if middleware == "gzip":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    elif middleware == "base":
        app.add_middleware(PassThrough)
    return app


def litestar_app(notifier: Notifier, *, middleware: str = "", **options: Any) -> App:
    @litestar.get("/live/{user:str}")
    async def live(request: litestar.Request[Any, Any, Any]) -> litestar.Response[Any]:
        return litestar_stream(request, notifier, request.path_params["user"], **options)

    @litestar.get("/sync/{user:str}", sync_to_thread=True)
    def live_sync(request: litestar.Request[Any, Any, Any]) -> litestar.Response[Any]:
        return litestar_stream(request, notifier, request.path_params["user"], **options)

    @litestar.get("/plain/{user:str}")
    async def plain(request: litestar.Request[Any, Any, Any]) -> LitestarStream:
        return LitestarStream(frames(notifier, request.path_params["user"]), media_type=SSE)

    mounted = litestar.asgi("/notify", is_mount=True, copy_scope=True)(web(notifier))
    compression = CompressionConfig("gzip", minimum_size=1) if middleware == "gzip" else None
    return litestar.Litestar([live, live_sync, plain, mounted], compression_config=compression, logging_config=None)


class Urls:
    """A root configuration of URLs."""

    def __init__(self, *patterns: Any) -> None:
        self.urlpatterns = patterns


def django_app(notifier: Notifier, *, middleware: str = "", **options: Any) -> App:
    async def live(request: Any, user: str) -> Any:
        return django_stream(request, notifier, user, **options)

    def live_sync(request: Any, user: str) -> Any:
        return django_stream(request, notifier, user, **options)

    async def plain(request: Any, user: str) -> StreamingHttpResponse:
        return StreamingHttpResponse(frames(notifier, user), content_type=SSE)

    urls = Urls(
        django_path("live/<user>", live), django_path("sync/<user>", live_sync), django_path("plain/<user>", plain)
    )
    chosen = {"gzip": ["django.middleware.gzip.GZipMiddleware"], "": []}[middleware]
    with override_settings(MIDDLEWARE=chosen):
        handler = ASGIHandler()

    async def with_urls(scope: Any, receive: Any, send: Any) -> None:
        settings.ROOT_URLCONF = urls  # one application at a time in this process
        await handler(scope, receive, send)

    return mount("/notify", web(notifier), with_urls)


def quart_app(notifier: Notifier, *, middleware: str = "", **options: Any) -> App:
    app = Quart(__name__)
    app.config["RESPONSE_TIMEOUT"] = 0.7

    @app.get("/live/<user>")
    async def live(user: str) -> QuartResponse:
        return quart_stream(quart_request, notifier, user, **options)

    @app.get("/sync/<user>")
    def live_sync(user: str) -> QuartResponse:
        return quart_stream(quart_request, notifier, user, **options)

    @app.get("/plain/<user>")
    async def plain(user: str) -> QuartResponse:
        response = QuartResponse(frames(notifier, user), content_type=SSE)
        response.timeout = None
        return response

    app.asgi_app = mount("/notify", web(notifier), app.asgi_app)  # type: ignore[method-assign]
    return app


APPS: dict[str, Make] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "litestar": litestar_app,
    "django": django_app,
    "quart": quart_app,
}


@asynccontextmanager
async def served(app: App, **config: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application with uvicorn in this event loop, and yield a client of it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **config))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await until(lambda: server.started, 20)
            async with httpx.AsyncClient(base_url=url, timeout=20) as client:
                try:
                    yield client
                finally:
                    server.should_exit = server.force_exit = True


class Reader:
    """The frames of one stream: a dictionary of the fields of each, comments and `retry:` alone under their names."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._chunks = response.aiter_text()
        self._text = ""
        self.comments = 0
        self.retry: int | None = None

    async def frame(self, seconds: float = 10) -> dict[str, Any]:
        """Return the next frame."""
        with anyio.fail_after(seconds):
            fields: dict[str, Any] = {}
            while True:
                line = await self._line()
                name, _, value = line.partition(": ")
                if not line and "data" in fields:
                    fields["data"] = json.loads(fields["data"])
                    return fields
                if line.startswith(":"):
                    self.comments += 1
                elif name == "retry":
                    self.retry = int(value)
                elif line:
                    fields[name] = value

    async def _line(self) -> str:
        while "\n" not in self._text:
            self._text += await anext(self._chunks)
        line, _, self._text = self._text.partition("\n")
        return line

    async def rest(self, seconds: float = 10) -> str:
        """Return everything up to the end of the response."""
        with anyio.fail_after(seconds):
            return self._text + "".join([chunk async for chunk in self._chunks])


@asynccontextmanager
async def reading(client: httpx.AsyncClient, path: str, **options: Any) -> AsyncGenerator[Reader]:
    async with client.stream("GET", path, **options) as response:
        yield Reader(response)
