"""While `authenticate` does not return, the client can still leave, and the server can still shut down.

`authenticate` sleeps for an hour here, and its time limit is an hour too: a test that ends did not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import pytest
import websockets
from hypercorn.config import Config

from notify import Notifier
from notify.web import NotifyApp, Request
from notify_memory import MemoryStore
from tests.parts import until
from tests.web.clients import RawClient, Socket, get
from tests.web.servers import WebServer, free_port

pytestmark = pytest.mark.anyio
outside = pytest.mark.parametrize("anyio_backend", ["asyncio"])

HOUR = 3600
PATHS = {"sse": "/stream?user=alice", "poll": "/events?user=alice&wait=5", "websocket": "/ws?user=alice"}
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def hanging(kind: str, directory: Path) -> WebServer:
    return WebServer(kind, "tests.web.apps.plain:app", directory, env={"TEST_WITHIN": str(HOUR)})


async def _is(port: int, name: str, value: object) -> bool:
    return bool((await get(port, "/inside"))[name] == value)


@outside
@pytest.mark.parametrize("transport", [*PATHS])
@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "hypercorn-w0", "hypercorn-trio"])
async def test_a_client_that_leaves(kind: str, transport: str, tmp_path: Path, anyio_backend: str) -> None:
    """`authenticate` is cancelled, and the connection is over."""
    with hanging(kind, tmp_path) as server:
        headers = UPGRADE if transport == "websocket" else {}
        async with RawClient(server.port, f"{PATHS[transport]}&delay={HOUR}", headers) as client:
            await until(partial(_is, server.port, "authenticating", 1))
            client.leave("rst")
        await until(partial(_is, server.port, "authenticating", 0))
        await until(partial(_is, server.port, "closing", 0))


@pytest.mark.parametrize("transport", [*PATHS])
async def test_a_shutdown(transport: str, anyio_backend_name: str) -> None:
    """hypercorn, in this process: the client is told of the shutdown at once, as one with an open stream is."""
    asked, ended = anyio.Event(), anyio.Event()

    async def authenticate(_: Request) -> str:
        asked.set()
        try:
            await anyio.sleep(HOUR)
        finally:
            ended.set()
        return "alice"

    async with Notifier(MemoryStore()) as notifier:
        web = NotifyApp(notifier, authenticate)
        assert web._site.authentication is not None
        web._site.authentication._timeout = HOUR
        config = Config()
        config.bind, config.graceful_timeout, config.errorlog = [f"127.0.0.1:{free_port()}"], 0.2, None
        port = int(config.bind[0].rpartition(":")[2])
        serve: Callable[..., Any] = getattr(hypercorn, anyio_backend_name).serve
        ending = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, web, config, shutdown_trigger=ending.wait))
            await until(partial(_accepts, port))
            headers = UPGRADE if transport == "websocket" else {}
            async with RawClient(port, PATHS[transport], headers) as client:
                await asked.wait()
                web.begin_shutdown()
                await until(lambda: ended.is_set() and not web._site.closing)
                if transport == "websocket":
                    await client.read()
                    assert client.status in (0, 101)
                else:
                    await client.read_all()
                    assert (client.status, client.complete) == (200, True)
                    assert b'"reason":"shutdown"' in client.body
            ending.set()
        assert len(web._site.ticker) == web._site.limits.open == notifier.statistics().open_streams == 0


async def _accepts(port: int) -> bool:
    with suppress(OSError):
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        return True
    return False


@outside
async def test_a_websocket_is_told_of_a_shutdown(tmp_path: Path, anyio_backend: str) -> None:
    """A WebSocket whose client is being authenticated is accepted, told the reason, and closed, as an open one is."""
    with hanging("hypercorn-w0", tmp_path) as server:
        told = list[Socket]()

        async def connect() -> None:
            with suppress(websockets.InvalidHandshake):
                told.append(await (await Socket.open(server.port, f"{PATHS['websocket']}&delay={HOUR}")).read_all())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await until(partial(_is, server.port, "authenticating", 1))
            server.send(15)
        assert told[0].received[-1]["data"]["reason"] == "shutdown"
        await anyio.to_thread.run_sync(server.wait)


@outside
async def test_uvicorn_does_not_wait(tmp_path: Path, anyio_backend: str) -> None:
    """A stream and a long poll are told, and the server ends: nothing waits for `authenticate`."""
    with hanging("uvicorn", tmp_path) as server:
        async with (
            RawClient(server.port, f"{PATHS['sse']}&delay={HOUR}") as stream,
            RawClient(server.port, f"{PATHS['poll']}&delay={HOUR}") as poll,
        ):
            await until(partial(_is, server.port, "authenticating", 2))
            server.send(15)
            for client in (stream, poll):
                await client.read_all()
                assert (client.status, client.complete) == (200, True)
                assert b'"reason":"shutdown"' in client.body
            await anyio.to_thread.run_sync(server.wait)
