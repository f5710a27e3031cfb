"""Clients that other people wrote, over a restart of the server: every event once, in order.

All of them read the same user while events are pushed from another process: before, during and after the restart. None
of them knows this library: what they need is in the frames.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import httpx_sse
import pytest
import websockets
from aiosseclient import aiosseclient
from anyio.to_thread import run_sync

from notify import Notifier
from tests.parts import until, untraced_environment
from tests.web.node import install
from tests.web.servers import WebServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NPM = Path(__file__).parent / "npm"
LIBRARIES = ("eventsource", "reconnecting-eventsource", "fetch-event-source", "eventsource-parser")
EVENTS = 60
PAUSE = 0.1
AWAY = (OSError, httpx.TransportError, websockets.WebSocketException, httpx_sse.SSEError, aiohttp.ClientError)


class Reader:
    """What one client has seen."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.synced = 0

    def take(self, payload: Any) -> None:
        self.seen.append(payload)


Read = Callable[[str, Reader], Awaitable[None]]


def by_library(library: str) -> Read:
    """A client of npm, in a process of its own."""

    async def read(place: str, reader: Reader) -> None:
        command = ["node", "clients.mjs", library, f"http://{place}/stream?user=alice", str(EVENTS)]
        async with await anyio.open_process(command, cwd=NPM, env=untraced_environment()) as process:
            try:
                assert process.stdout is not None
                text = ""
                async for chunk in process.stdout:
                    *lines, text = (text + chunk.decode()).split("\n")
                    for line in map(json.loads, lines):
                        reader.synced += "sync" in line
                        if "n" in line:
                            reader.take(line["n"])
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

    return read


async def by_httpx_sse(place: str, reader: Reader) -> None:
    last_id = ""
    async with httpx.AsyncClient(timeout=10) as client:
        while True:
            with suppress(*AWAY):
                headers = {"Last-Event-ID": last_id} if last_id else {}
                url = f"http://{place}/stream?user=alice"
                async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
                    async for event in source.aiter_sse():
                        last_id = event.id or last_id
                        reader.synced += event.event == "notify.sync"
                        if event.event == "message":
                            reader.take(event.json()["payload"])
            await anyio.sleep(PAUSE)


async def by_aiosseclient(place: str, reader: Reader) -> None:
    """It does not reconnect by itself."""
    last_id = None
    while True:
        with suppress(*AWAY):
            async with aclosing(aiosseclient(f"http://{place}/stream?user=alice", last_id)) as events:
                async for event in events:
                    last_id = event.id or last_id
                    reader.synced += event.event == "notify.sync"
                    if event.event == "message":
                        reader.take(json.loads(event.data)["payload"])
        await anyio.sleep(PAUSE)


def by_websockets(*, commanded: bool) -> Read:
    """The position goes into the URL, or into a `subscribe`."""

    async def read(place: str, reader: Reader) -> None:
        position = ""
        while True:
            with suppress(*AWAY):
                query = "" if commanded else f"&last_id={position}"
                url = f"ws://{place}/ws?user=alice{query}"
                async with websockets.connect(url, subprotocols=["notify.v1"], proxy=None) as socket:  # type: ignore[list-item]
                    answered = not (commanded and position)
                    if not answered:
                        await socket.send(json.dumps({"ref": 1, "do": "subscribe", "position": position}))
                    async for text in socket:
                        frame = json.loads(text)
                        answered = answered or "ref" in frame
                        if answered and "event" in frame:
                            position = frame.get("id", position)
                            reader.synced += frame["event"] == "notify.sync"
                            if frame["event"] == "message":
                                reader.take(frame["data"]["payload"])
            await anyio.sleep(PAUSE)

    return read


def by_polling(*, wait: float) -> Read:
    async def read(place: str, reader: Reader) -> None:
        position = ""
        async with httpx.AsyncClient(timeout=10) as client:
            while True:
                with suppress(*AWAY):
                    query = {"user": "alice", "after": position, "wait": wait, "limit": 7}
                    response = await client.get(f"http://{place}/events", params=query)
                    page = response.json()
                    position = page["position"]
                    reader.synced += page["sync"]
                    for event in page["events"]:
                        reader.take(event["payload"])
                    if page["events"] and not wait:
                        continue
                await anyio.sleep(0 if wait and reader.seen else PAUSE)

    return read


CLIENTS: dict[str, Read] = {
    **{library: by_library(library) for library in LIBRARIES},
    "httpx-sse": by_httpx_sse,
    "aiosseclient": by_aiosseclient,
    "websockets": by_websockets(commanded=False),
    "websockets with subscribe": by_websockets(commanded=True),
    "long poll": by_polling(wait=2.0),
    "poll": by_polling(wait=0.0),
}


@asynccontextmanager
async def reading(place: str) -> AsyncIterator[dict[str, Reader]]:
    """Every client at work, caught up."""
    readers = {name: Reader() for name in CLIENTS}
    async with anyio.create_task_group() as group:
        for name, read in CLIENTS.items():
            group.start_soon(read, place, readers[name])
        await until(lambda: all(reader.synced for reader in readers.values()), 30)
        yield readers
        group.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("uvicorn", signal.SIGTERM),
        ("uvicorn", signal.SIGKILL),
        ("hypercorn", signal.SIGTERM),
        ("granian", signal.SIGTERM),
        ("daphne", signal.SIGTERM),
    ],
)
async def test_every_event_once_in_order(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    """20 events before the server ends, 20 while it is away, 20 after it is back: each client sees 60."""
    await run_sync(install, NPM)
    store = f"sqlite:///{tmp_path / 'events.db'}"
    server = WebServer(kind, "tests.web.stored:app", tmp_path, env={"NOTIFY_TEST_STORE": store})
    async with Notifier.from_url(store) as notifier:
        await run_sync(server.__enter__)
        try:
            async with reading(f"127.0.0.1:{server.port}") as readers:
                for n in range(20):
                    await notifier.push("alice", "order", n)
                await until(lambda: all(reader.seen for reader in readers.values()), 30)
                await run_sync(server.stop, number)
                for n in range(20, 40):
                    await notifier.push("alice", "order", n)
                await run_sync(server.start)
                for n in range(40, EVENTS):
                    await notifier.push("alice", "order", n)
                with suppress(TimeoutError):  # the comparison says more
                    await until(lambda: all(len(reader.seen) >= EVENTS for reader in readers.values()), 40)
        finally:
            await run_sync(server.__exit__)
    assert {name: reader.seen for name, reader in readers.items()} == {name: list(range(EVENTS)) for name in CLIENTS}
