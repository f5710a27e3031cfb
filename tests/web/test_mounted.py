"""`NotifyApp` in five frameworks: mounted as each of them can, under prefixes of several kinds, on two servers."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect

from notify import Notifier
from notify.web import NotifyApp, mount
from notify_memory import MemoryStreamStore
from tests.web.applications import APPS, Make, reading, served
from tests.web.clients import RawClient, get
from tests.web.servers import WebServer

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOTIFY: Any = "notify.v1"

frameworks = pytest.mark.parametrize("make", APPS.values(), ids=APPS)


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore()) as notifier:
        yield notifier


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application of which nothing is asked, with a lifespan that is not supported."""
    assert scope["type"] == "lifespan", scope["path"]
    raise ValueError("HTTP only")


PREFIXES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "none": (lambda app: app, "", {}),
    "root_path of the server": (lambda app: app, "", {"root_path": "/proxy"}),
    "mounted": (lambda app: Starlette(routes=[Mount("/outer", app)]), "/outer", {}),
    "mounted twice": (lambda app: Starlette(routes=[Mount("/a", Starlette(routes=[Mount("/b", app)]))]), "/a/b", {}),
    "mounted behind a proxy": (
        lambda app: Starlette(routes=[Mount("/outer", app)]),
        "/outer",
        {"root_path": "/proxy/deep"},
    ),
    "beside another": (lambda app: mount("/outer", app, nothing), "/outer", {}),
}
"""How the application is wrapped, the path at which a client reaches it, and what the server is told."""

prefixes = pytest.mark.parametrize(("wrap", "base", "config"), PREFIXES.values(), ids=PREFIXES)


@frameworks
@prefixes
async def test_every_transport_is_found(
    notifier: Notifier, make: Make, wrap: Any, base: str, config: dict[str, Any]
) -> None:
    """Server-sent events, a WebSocket and a poll show the same event, with or without a slash at the end; what is not
    there is 404 in the shape of an error; the framework's own endpoints work beside it."""
    where = f"{base}/notify"
    async with served(wrap(make(notifier)), **config) as client:
        websocket = str(client.base_url.join(f"{where}/ws")).replace("http", "ws")
        async with AsyncExitStack() as opened:
            readers = [
                await opened.enter_async_context(reading(client, path))
                for path in (f"{where}/stream?user=alice", f"{where}/stream/?user=alice", f"{base}/live/alice")
            ]
            sockets = [
                await opened.enter_async_context(connect(f"{websocket}{slash}?user=alice", subprotocols=[NOTIFY]))
                for slash in ("", "/")
            ]
            for reader in readers:
                assert (await reader.frame())["event"] == "notify.sync"
            for socket in sockets:
                assert json.loads(await socket.recv())["event"] == "notify.sync"
            event = await notifier.push("alice", "t", 1)
            for reader in readers:
                assert (await reader.frame())["id"] == event.id
            for socket in sockets:
                assert json.loads(await socket.recv())["id"] == event.id
        for slash in ("", "/"):
            poll = await client.get(f"{where}/events{slash}?user=alice&after=0")
            assert [each["id"] for each in poll.json()["events"]] == [event.id]
            assert (await client.get(f"{where}/stream{slash}")).status_code == 401
            for path in ("/nothing", "/stream/more"):
                missing = await client.get(f"{where}{path}{slash}?user=alice")
                assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found"), path
                assert "/health" in missing.json()["error"]["message"]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
async def test_root_path_of_fastapi(notifier: Notifier) -> None:
    """FastAPI's own `root_path`, which does not stand in the path that it passes on."""
    app = FastAPI(root_path="/proxy")
    app.mount("/notify", NotifyApp(notifier, lambda request: "alice"))
    async with served(app) as client:
        for path in ("/notify/stream", "/proxy/notify/stream"):
            async with reading(client, path) as reader:
                assert (await reader.frame())["event"] == "notify.sync"


# -- in a process of their own --------------------------------------------------------------------------------------


def server(kind: str, framework: str, directory: Path, *options: str) -> WebServer:
    app = "tests.web.apps.framework:app"
    return WebServer(kind, app, directory, env={"TEST_FRAMEWORK": framework}, options=options)


async def follow(port: int, *clients: RawClient) -> None:
    """Read up to a live event."""
    for client in clients:
        await client.read_until(b"notify.sync")
    await get(port, "/push?user=alice")
    for client in clients:
        await client.read_until(b"pushed")


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar"])
async def test_on_trio(framework: str, tmp_path: Path) -> None:
    """Under hypercorn on trio, where there is no asyncio: the mounted application and `event_stream` alike; the server
    ends in time, and every client sees the last frame."""
    with server("hypercorn-trio", framework, tmp_path) as running:
        async with (
            RawClient(running.port, "/notify/stream?user=alice") as mounted,
            RawClient(running.port, "/live/alice") as own,
        ):
            await follow(running.port, mounted, own)
            await own.read_until(b"\n:\n")
            running.send(signal.SIGTERM)
            for client in (mounted, own):
                await client.read_all()
                assert client.complete
                assert json.loads(client.frames[-1].data)["reason"] == "shutdown"
        assert await anyio.to_thread.run_sync(running.wait) == 0


ENDS = [
    *((framework, "uvicorn") for framework in APPS),
    *((framework, "hypercorn-w0") for framework in APPS),
    *((framework, "granian") for framework in APPS),
    ("starlette", "hypercorn"),
    ("litestar", "hypercorn"),
]


@pytest.mark.parametrize(("framework", "kind"), ENDS)
async def test_the_end_of_a_process(framework: str, kind: str, tmp_path: Path) -> None:
    """On SIGTERM every stream ends with `notify.end` and a complete response, and the server with it."""
    with server(kind, framework, tmp_path) as running:
        async with (
            RawClient(running.port, "/notify/stream?user=alice") as mounted,
            RawClient(running.port, "/live/alice") as own,
        ):
            await follow(running.port, mounted, own)
            seconds = await anyio.to_thread.run_sync(running.stop)
            for client in (mounted, own):
                await client.read_all()
                assert client.complete
                assert json.loads(client.frames[-1].data)["reason"] == "shutdown"
    assert seconds < 10  # no server waits for its own limit of a stream


@pytest.mark.parametrize(("framework", "kind"), [("django", "daphne"), ("django", "hypercorn"), ("quart", "hypercorn")])
async def test_the_end_where_responses_are_cancelled(framework: str, kind: str, tmp_path: Path) -> None:
    """daphne and hypercorn cancel a response that Django and Quart send: the last frame may be missing, but the
    connection ends, so that the client comes back, and the server ends in time."""
    with server(kind, framework, tmp_path) as running:
        async with RawClient(running.port, "/live/alice") as client:
            await follow(running.port, client)
            seconds = await anyio.to_thread.run_sync(running.stop)
            await client.read_all()
            assert client.closed or client.complete
    assert seconds < 10
