"""Thousands of streams: nothing is left of them, and a storm of reconnects starves no other stream."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, Page
from notify.web import NotifyApp, Request, _limits
from notify.web._limits import TURNS
from notify_memory import MemoryPresence, MemoryStore
from tests.parts import BatchStore, until, untraced

pytestmark = pytest.mark.anyio

MANY = {"asyncio": 10_000, "trio": 2_000}
"""Connections by event loop: most under asyncio, which almost all servers use; under trio, enough to see a fault."""

OURS = ("Session", "Subscription", "FrameFeed", "TaskWatch", "GroupWatch", "Entrance", "CallbackStream", "Client")


class Client:
    """An ASGI server's side of one connection, without a socket."""

    def __init__(self, app: Any, user: str, last_id: str = "") -> None:
        self.app = app
        headers = [(b"last-event-id", last_id.encode())] if last_id else []
        self.scope = {
            "type": "http", "method": "GET", "path": "/stream", "query_string": f"user={user}".encode(),
            "headers": headers, "scheme": "http", "client": ["127.0.0.1", 1],
        }  # fmt: skip
        self.left = anyio.Event()
        self.synced = anyio.Event()
        self.status = 0
        self.body = b""
        self.on_body: Callable[[bytes], None] = lambda _: None

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.body += message["body"]
        self.on_body(message["body"])
        if b"notify.sync" in message["body"]:
            self.synced.set()

    async def run(self) -> None:
        await self.app(self.scope, self.receive, self.send)


def authenticate(request: Request) -> str | None:
    return request.query.get("user")


def alive(*kinds: str) -> set[int]:
    """Return which objects of these kinds there are; those of earlier tests may still be among them, and go."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if type(each).__name__ in kinds}


@pytest.mark.timeout(300)  # a minute is not enough for ten thousand on a busy machine
async def test_ten_thousand_connections_leave_nothing(anyio_backend_name: str) -> None:
    """Of those that leave and of those that the server cancels: no stream, object, task, timer or presence."""
    presence, many = MemoryPresence(), MANY[anyio_backend_name]
    async with Notifier(MemoryStore(), presence=presence, linger=0.05) as notifier:
        app = NotifyApp(notifier, authenticate)

        async def wave(first: int, cancelled: bool) -> None:
            clients = [Client(app, f"user{number}") for number in range(first, first + 1000)]
            async with anyio.create_task_group() as group:
                for client in clients:
                    group.start_soon(client.run)
                for client in clients:
                    await client.synced.wait()
                assert notifier.statistics().open_streams == len(clients)
                assert app._site.limits.open == len(app._site.ticker) == len(app._site.closing) == len(clients)
                if cancelled:
                    group.cancel_scope.cancel()
                else:
                    for client in clients:
                        client.left.set()

        before, tasks = alive(*OURS), len(alive("Task"))
        with untraced():
            for number in range(many // 1000):
                await wave(1000 * number, cancelled=number % 2 == 1)
        assert notifier.statistics().open_streams == 0
        assert app._site.limits.open == len(app._site.ticker) == len(app._site.closing) == 0

        async def is_offline() -> bool:
            return not await presence.locate([f"user{number}" for number in range(many)])

        await until(is_offline, 20)
        await until(lambda: app._site.background.running == 0)
        await until(lambda: alive(*OURS) <= before)
        assert len(alive("Task")) <= tasks + 5  # those of the notifier itself


@pytest.mark.timeout(300)  # a minute is not enough for ten thousand on a busy machine
async def test_ten_thousand_reconnects_starve_no_stream(anyio_backend_name: str) -> None:
    """All catch up within two minutes, a few read at a time, and an open stream gets live events in between."""
    at_once = highest = 0
    many = MANY[anyio_backend_name]

    class Counted(BatchStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            nonlocal at_once, highest
            at_once += 1
            highest = max(highest, at_once)
            await anyio.sleep(0.001)
            at_once -= 1
            return await super().read(user, after, limit)

    store = Counted(MemoryStore(max_len=100))
    async with Notifier(store, poll_interval=60, timeout=60) as notifier:
        app = NotifyApp(notifier, authenticate)
        with untraced():
            for number in range(many):
                for count in range(3):
                    store.inner.save_nowait(Event(f"user{number}", "t", count))
            clients = [Client(app, f"user{number}", "0") for number in range(many)]
            steady = Client(app, "steady")
            arrived = [0.0]
            steady.on_body = lambda _: arrived.append(time.monotonic())
            delays = []
            async with anyio.create_task_group() as group:
                group.start_soon(steady.run)
                await steady.synced.wait()
                for client in clients:
                    group.start_soon(client.run)
                began = time.monotonic()
                while not all(client.synced.is_set() for client in clients):
                    assert time.monotonic() - began < 120
                    pushed = time.monotonic()
                    await notifier.push("steady", "t", "x")
                    await until(lambda pushed=pushed: arrived[-1] >= pushed, 10)
                    delays.append(time.monotonic() - pushed)
                    await anyio.sleep(0.05)
                took = time.monotonic() - began
                for client in [*clients, steady]:
                    client.left.set()
        assert all(client.body.count(b"\nid: ") == 4 for client in clients)
        assert highest <= TURNS
        assert len(delays) > 5
        assert sorted(delays)[len(delays) // 2] < max(0.25, took / 20)  # a stream that starves waits for all of it


async def test_a_client_that_does_not_read_holds_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay that waits for slow clients, more than may read at a time, lets others replay."""
    monkeypatch.setattr(_limits, "HOLD", 60.0)  # or a turn that is held would be taken back
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        for number in range(40):
            for _ in range(3):
                await notifier.push(f"slow{number}", "t", "x" * 60_000)

        class Slow(Client):
            async def send(self, message: Any) -> None:
                await super().send(message)
                if message["type"] == "http.response.body":
                    await self.left.wait()

        slow = [Slow(app, f"slow{number}", "0") for number in range(40)]
        quick = Client(app, "quick", "0")
        async with anyio.create_task_group() as group:
            for client in slow:
                group.start_soon(client.run)
            await until(lambda: all(client.body for client in slow))
            group.start_soon(quick.run)
            with anyio.fail_after(10):
                await quick.synced.wait()
            for client in [*slow, quick]:
                client.left.set()
        assert not app._site.turns._held


async def test_a_turn_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has waited too long is asked to come back later; it has had the head in the meantime."""
    monkeypatch.setattr("notify.web._session.MAX_QUEUE", 0.1)
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        for number in range(TURNS):
            assert await app._site.turns.acquire(number)
        client = Client(app, "alice", "0")
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            await until(lambda: client.status)
            await until(lambda: b"overload" in client.body)
        for number in range(TURNS):
            app._site.turns.release(number)
        assert app._site.limits.open == 0
        assert client.body.startswith(b"retry: ")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_encoded_once_is_written_to_all(anyio_backend: str) -> None:
    """A broadcast to many streams is one object of bytes."""
    async with Notifier(MemoryStore()) as notifier:
        app = NotifyApp(notifier, authenticate)
        clients = [Client(app, f"user{number}") for number in range(20)]
        written: list[bytes] = []
        before = len(asyncio.all_tasks())
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(client.run)
                await client.synced.wait()
                client.on_body = written.append
            await notifier.broadcast("t", {"n": 1})
            await until(lambda: len(written) == 20)
            started_by_the_parts = notifier._parts.services.running + app._site.background.running
            assert len(asyncio.all_tasks()) == before + 2 * 20 + started_by_the_parts  # one beside each connection
            for client in clients:
                client.left.set()
        assert all(each is written[0] for each in written)
