"""Clients that read a whole response slowly, or not to its end: over HTTP/2, hypercorn waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import anyio
import anyio.lowlevel
import h2.config
import h2.connection
import h2.events
import h2.settings
import hypercorn.asyncio
import hypercorn.trio
import pytest
from anyio.abc import ByteStream
from hypercorn.config import Config

from notify import Notifier
from notify._asgi import _reply
from notify.web import NotifyApp
from notify_memory import MemoryStore
from tests.parts import until
from tests.web.servers import free_port

pytestmark = pytest.mark.anyio

PATH = "/components.js"
"""The longest of the responses that are sent as a whole."""

WINDOW = 512
"""Bytes that the server may send before the client allows more."""


class SlowReader:
    """One request over HTTP/2, of a client that allows the server to send `WINDOW` bytes.

    Attributes:
        body: what has arrived.
        is_complete: whether the response has ended.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.body = b""
        self.is_complete = False

    async def ask(self, path: str) -> Self:
        """Send the request."""
        window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        self._connection.local_settings = h2.settings.Settings(initial_values=window)
        self._connection.initiate_connection()
        headers = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "localhost"}
        self._connection.send_headers(1, [*headers.items()], end_stream=True)
        await self._flush()
        return self

    async def read(self, length: int) -> None:
        """Wait until so many bytes have arrived, or the response has ended; allow nothing more."""
        while len(self.body) < length and not self.is_complete:
            for event in self._connection.receive_data(await self._stream.receive()):
                if isinstance(event, h2.events.DataReceived):
                    self.body += event.data
                self.is_complete = self.is_complete or isinstance(event, h2.events.StreamEnded)
            await self._flush()

    async def read_all(self) -> None:
        """Read to the end, `WINDOW` bytes at a time."""
        while not self.is_complete:
            await self.read(len(self.body) + WINDOW)
            if not self.is_complete:
                self._connection.increment_flow_control_window(WINDOW, 1)
                self._connection.increment_flow_control_window(WINDOW)
                await self._flush()

    async def _flush(self) -> None:
        await self._stream.send(self._connection.data_to_send())


class Served:
    """The application, as hypercorn calls it; `requests` is how many it is serving."""

    def __init__(self, web: NotifyApp) -> None:
        self._web = web
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, and count it meanwhile."""
        is_request = scope["type"] == "http"
        self.requests += is_request
        try:
            await self._web(scope, receive, send)
        finally:
            self.requests -= is_request


@asynccontextmanager
async def connected(library: str) -> AsyncIterator[tuple[Served, SlowReader]]:
    """An application under hypercorn, and a client of it."""
    async with Notifier(MemoryStore()) as notifier, anyio.create_task_group() as tasks:
        served = Served(NotifyApp(notifier, lambda _: "alice"))
        port, ending, config = free_port(), anyio.Event(), Config()
        config.bind, config.graceful_timeout, config.errorlog = [f"127.0.0.1:{port}"], 0.2, None
        serve: Callable[..., Any] = getattr(hypercorn, library).serve
        tasks.start_soon(partial(serve, served, config, shutdown_trigger=ending.wait))
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.lowlevel.checkpoint()
            else:
                break
        async with stream:
            yield served, SlowReader(stream)
        ending.set()


async def test_a_client_that_does_not_read(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is over after a while, although it stays connected."""
    monkeypatch.setattr(_reply, "SENT_WITHIN", 0.5)
    async with connected(anyio_backend_name) as (served, client):
        await client.ask(PATH)
        await client.read(WINDOW)
        await until(lambda: served.requests == 0)
        assert (len(client.body), client.is_complete) == (WINDOW, False)


async def test_a_client_that_reads_slowly(anyio_backend_name: str) -> None:
    """It gets the whole response, piece by piece."""
    async with connected(anyio_backend_name) as (served, client):
        await client.ask(PATH)
        with anyio.fail_after(60):
            await client.read_all()
        assert client.body.startswith(b"//")
        assert len(client.body) > 40 * WINDOW
        await until(lambda: served.requests == 0)
