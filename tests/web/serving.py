"""A server in the event loop of the test, which sees both sides: uvicorn on asyncio, hypercorn on trio."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import hypercorn
import hypercorn.trio
import sniffio
import uvicorn
from anyio.to_thread import run_sync
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serve an application, and yield the host and port; stop the server in the end.

    Args:
        app: an ASGI application.
        options: of uvicorn.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        place = "{}:{}".format(*listener.getsockname())
        async with anyio.create_task_group() as group:
            if sniffio.current_async_library() == "asyncio":
                config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2, **options)
                server = uvicorn.Server(config)
                group.start_soon(partial(_with_own_signals, server), [listener])
                yield place
                server.should_exit = True
            else:
                over = anyio.Event()
                trio_config = hypercorn.Config.from_mapping(
                    bind=[f"fd://{listener.detach()}"], graceful_timeout=1.0, errorlog=None
                )
                group.start_soon(partial(hypercorn.trio.serve, app, trio_config, shutdown_trigger=over.wait))
                yield place
                over.set()


async def _with_own_signals(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    await server._serve(sockets)  # without `serve`, which takes the signals of the test's process


class Client:
    """A WebSocket of another implementation, read in threads, so that it runs beside either event loop."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def receive(self, timeout: float = 10.0) -> Any:
        """Return the next frame, decoded."""
        return json.loads(await run_sync(partial(self.connection.recv, timeout=timeout)))

    async def until(self, event: str, timeout: float = 10.0) -> Any:
        """Return the next frame of this name; skip those before it."""
        while True:
            frame = await self.receive(timeout)
            if frame.get("event") == event:
                return frame

    async def send(self, value: Any) -> None:
        """Send one frame: text and bytes as they are, everything else as JSON."""
        await run_sync(self.connection.send, value if isinstance(value, str | bytes) else json.dumps(value))

    async def ask(self, **command: Any) -> Any:
        """Send a command, and return the answer with its reference; skip events before it."""
        await self.send({"ref": 1} | command)
        while True:
            answer = await self.receive()
            if "ref" in answer:
                return answer

    async def end(self, timeout: float = 10.0) -> tuple[list[Any], int, str]:
        """Return the frames until the end, the close code and its reason."""
        frames = []
        while True:
            try:
                frames.append(await self.receive(timeout))
            except ConnectionClosed as closed:
                received = closed.rcvd
                return frames, received.code if received else 1006, received.reason if received else ""


@asynccontextmanager
async def websocket(place: str, query: str = "", **options: Any) -> AsyncIterator[Client]:
    """Open `/ws` at a server; raise what `websockets` raises if the handshake is refused."""
    options = {"subprotocols": ["notify.v1"], "open_timeout": 10, "close_timeout": 1, "proxy": None} | options
    opened: list[Any] = []

    def enter() -> ClientConnection:
        opened.append(connect(f"ws://{place}/ws?{query}", **options))
        return opened[0].__enter__()  # type: ignore[no-any-return]

    connection = await run_sync(enter)
    try:
        yield Client(connection)
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(opened[0].__exit__, None, None, None)
