"""Real servers on the test's own event loop, so that a test can push, count and end things beside real sockets.

uvicorn on asyncio, hypercorn on trio.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import hypercorn.config
import sniffio
import uvicorn

from tests.parts import until

GRACE = 5.0


class QuietServer(uvicorn.Server):
    """A uvicorn that leaves the signal handlers of the test run alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: Any, *, http: str = "httptools") -> AsyncIterator[int]:
    """Serve an application on a free port while the block runs, and yield the port."""
    serve = _on_uvicorn if sniffio.current_async_library() == "asyncio" else _on_hypercorn
    ended = anyio.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        async with anyio.create_task_group() as group:
            port = listener.getsockname()[1]
            group.start_soon(partial(serve, app, listener, ended, http=http))
            await until(partial(_answers, port), 10)
            try:
                yield port
            finally:
                ended.set()


async def _answers(port: int) -> bool:
    with suppress(OSError):
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    return False


async def _on_uvicorn(app: Any, listener: socket.socket, ended: anyio.Event, *, http: str) -> None:
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, lifespan="auto", http=http, ws="websockets-sansio",
        timeout_graceful_shutdown=round(GRACE),
    )  # fmt: skip
    server = QuietServer(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listener])
        await ended.wait()
        server.should_exit = True


async def _on_hypercorn(app: Any, listener: socket.socket, ended: anyio.Event, *, http: str) -> None:
    from hypercorn.trio import serve

    config = hypercorn.config.Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.graceful_timeout = GRACE
    config.accesslog, config.errorlog = None, logging.getLogger("hypercorn.quiet")
    await serve(app, config, shutdown_trigger=ended.wait, mode="asgi")
