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
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import uvicorn

from tests.parts import until
from tests.web.frameworks import django, fastapi, litestar, quart, starlette
from tests.web.frameworks.parts import App, Make

APPS: dict[str, Make] = {
    "starlette": starlette.app,
    "fastapi": fastapi.app,
    "litestar": litestar.app,
    "django": django.app,
    "quart": quart.app,
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
