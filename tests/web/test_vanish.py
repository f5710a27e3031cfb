"""Clients that leave, in every way, and clients that stop reading: nothing of them stays or waits for them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import pytest
from hypercorn.config import Config

from notify import Notifier
from notify.web import NotifyApp
from notify_memory import MemoryPresence, MemoryStreamStore
from tests.parts import until
from tests.web.clients import RawClient, Socket, get
from tests.web.servers import WebServer, free_port

pytestmark = pytest.mark.anyio
outside = pytest.mark.parametrize("anyio_backend", ["asyncio"])

APP = "tests.web.apps.plain:app"
WAYS = ("fin", "rst", "half")
SILENT = "silent"
"""Not a way to leave: the client stays connected, but sends and reads nothing more."""

FEW = 25
FEWER = 5
"""Clients of the other transports beside those."""

MANY = 2_500
PIECE = 500
"""Clients that are connected at the same time."""

LIFETIME = 1.0
"""Seconds after which a stream ends, although its client has not left."""

COUNTED = ("streams", "closing", "tasks", "descriptors", "present")
"""What has to return to where it was."""

SERVING = ["uvicorn", "uvicorn-h11", "hypercorn-w0", "hypercorn-trio", "granian", "daphne", "gunicorn"]
"""One worker each: what is open is counted in it."""


def served(kind: str, directory: Path, *arguments: str, **options: Any) -> WebServer:
    env = {"TEST_STORE": "memory://", "TEST_OPTIONS": json.dumps({"max_streams_per_user": 10_000, **options})}
    return WebServer(kind, APP, directory, env=env, options=arguments)


async def connected(stack: AsyncExitStack, port: int, number: int) -> list[RawClient]:
    """That many streams, all live."""
    clients = [await stack.enter_async_context(RawClient(port, "/stream?user=alice")) for _ in range(number)]
    for client in clients:
        await client.read_until(b"notify.sync")
    return clients


async def connected_otherwise(stack: AsyncExitStack, port: int, number: int) -> list[RawClient | Socket]:
    """That many WebSockets, and polls that wait."""
    clients: list[RawClient | Socket] = []
    position = (await get(port, "/events?user=alice"))["position"]
    for _ in range(number):
        client = await Socket.open(port, "/ws?user=alice")
        stack.callback(client.leave)
        await client.read_until("notify.sync")
        target = f"/events?user=alice&wait=25&after={position}"
        clients += [client, await stack.enter_async_context(RawClient(port, target))]
    return clients


async def inside(port: int) -> dict[str, Any]:
    found = await get(port, "/inside")
    return {name: found[name] for name in COUNTED}


async def settled(port: int) -> dict[str, Any]:
    """What is open, once all streams have ended and what ended them has too."""
    last: dict[str, Any] = {}

    async def same() -> bool:
        nonlocal last
        last, before = await inside(port), last
        return last == before and last["streams"] == 0

    await until(same, 15.0)
    return last


async def returned(port: int, before: dict[str, Any]) -> None:
    """Wait until nothing is more than it was; connections that a server keeps open may have ended in between."""

    async def has_returned() -> bool:
        after = await inside(port)
        return all(after[name] <= before[name] for name in COUNTED)

    await until(has_returned, 15.0)


@outside
@pytest.mark.parametrize("kind", SERVING)
async def test_clients_that_leave_leave_nothing(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """After FIN, RST and half-close, streams, tasks, descriptors and presence are where they were."""
    with served(kind, tmp_path) as server:
        before: dict[str, Any] = {}
        for way in ("fin", *WAYS):  # the first round warms up
            async with AsyncExitStack() as stack:
                clients = await connected(stack, server.port, FEW)
                others = await connected_otherwise(stack, server.port, FEWER)
                await until(partial(_streams, server.port, FEW + 2 * FEWER))
                open_now = await inside(server.port)
                assert (open_now["closing"], open_now["present"]) == (FEW + 2 * FEWER, ["alice"])
                for client in (*clients, *others):
                    client.leave(way)
                if before:
                    await returned(server.port, before)
                else:
                    before = await settled(server.port)


@outside
@pytest.mark.slow
@pytest.mark.timeout(180)  # the silent ones stay until the end of their lifetime
async def test_ten_thousand_connections_leave_nothing(tmp_path: Path, anyio_backend: str) -> None:
    """After 2,500 clients of each way, and 2,500 silent ones that the server ends, memory is where it was, too."""
    at_once = ("--timeout-keep-alive", "0")  # otherwise uvicorn keeps the state of an ended connection for five seconds
    with served("uvicorn", tmp_path, *at_once, heartbeat=60.0, lifetime=LIFETIME) as server:
        for way in ("fin", SILENT):  # when many end at once, memory grows, until thousands have ended
            await _rounds(server.port, way, MANY)
        before, first = await settled(server.port), await _memory(server.port)
        for way in (*WAYS, SILENT):
            await _rounds(server.port, way, MANY)
            await returned(server.port, before)
            await until(partial(_freed, server.port, first), 30.0)
        memory = await _memory(server.port)
        assert memory["resident"] - first["resident"] < 8_000_000, "nearly a kilobyte of each is left"


async def _rounds(port: int, way: str, number: int) -> None:
    for _ in range(number // PIECE):
        async with AsyncExitStack() as stack:
            clients = await connected(stack, port, PIECE)
            if way != SILENT:
                for client in clients:
                    client.leave(way)
            if way in ("half", SILENT):
                await settled(port)


async def _freed(port: int, first: dict[str, int]) -> bool:
    """Whether less than one block for each client is left."""
    return (await _memory(port))["blocks"] - first["blocks"] < MANY


async def _memory(port: int) -> dict[str, int]:
    found: dict[str, int] = await get(port, "/inside/memory")
    return found


@outside
@pytest.mark.parametrize("kind", ["uvicorn", "granian"])
async def test_silent_clients_are_released_at_the_end_of_the_lifetime(
    kind: str, tmp_path: Path, anyio_backend: str
) -> None:
    """A client that is gone without a word is noticed by no server; its stream ends after `lifetime`."""
    with served(kind, tmp_path, lifetime=1.0) as server:
        async with AsyncExitStack() as stack:
            clients = await connected(stack, server.port, FEW)
            await settled(server.port)  # the connections are still open, and nothing is read
            for client in clients:
                await client.read_all()
                assert client.complete
                assert client.frames[-1].json["reason"] == "lifetime"


@outside
@pytest.mark.parametrize("kind", [kind for kind in SERVING if kind not in ("daphne", "hypercorn-trio")])
async def test_a_client_that_stops_reading(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """It delays no other client of the same user, and its stream has ended after `send_timeout`."""
    with served(kind, tmp_path, send_timeout=1.0) as server:
        async with AsyncExitStack() as stack:
            stopped, reading = await connected(stack, server.port, 2)
            silent = await Socket.open(server.port, "/ws?user=alice")  # reads no more once a few frames wait
            stack.callback(silent.leave)
            await silent.read_until("notify.sync")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reading.read_until, b'"n":300,')
                began = time.monotonic()
                await get(server.port, "/inside/push?user=alice&count=300&size=40000")
                await get(server.port, "/inside/push?user=alice&first=300")
            assert time.monotonic() - began < 15.0
            assert [message["payload"]["n"] for message in reading.messages][:300] == [*range(300)]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_read_on, reading)
                await until(partial(_streams, server.port, 1), 1.0 + 9.0)
                tasks.cancel_scope.cancel()
            assert not stopped.complete


async def _read_on(client: RawClient) -> None:
    while await client.read():
        pass


async def _streams(port: int, number: int) -> bool:
    return bool((await inside(port))["streams"] == number)


async def test_a_server_that_cancels_leaves_nothing(anyio_backend_name: str) -> None:
    """hypercorn, in this process: its grace is over, the streams are cancelled, and everything is released."""
    presence = MemoryPresence()
    async with Notifier(MemoryStreamStore(), presence=presence, linger=0.0) as notifier:
        web = NotifyApp(notifier, lambda request: request.query.get("user"), max_streams_per_user=FEW)
        config = Config()
        config.bind, config.graceful_timeout, config.errorlog = [f"127.0.0.1:{free_port()}"], 0.2, None
        serve: Callable[..., Any] = getattr(hypercorn, anyio_backend_name).serve
        ending = anyio.Event()
        async with AsyncExitStack() as stack:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(serve, web, config, shutdown_trigger=ending.wait))
                port = int(config.bind[0].rpartition(":")[2])
                await until(partial(_accepts, port))
                clients = await connected(stack, port, FEW)
                assert notifier.statistics().open_streams == len(web._site.closing) == FEW
                ending.set()
                if anyio_backend_name == "asyncio" and sys.version_info >= (3, 12):
                    web.begin_shutdown()  # there it waits for the connections before it cancels them
                with anyio.fail_after(5):
                    for client in clients:
                        await client.read_all()
            for client in clients:
                assert client.frames[-1].json["reason"] == "shutdown"
        assert notifier.statistics().open_streams == len(web._site.closing) == len(web._site.ticker) == 0
        assert web._site.limits.open == 0
        await until(lambda: not presence.locate_nowait(["alice"]).get("alice"))


async def _accepts(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True
