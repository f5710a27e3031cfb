"""How many tasks a connection costs: the one in which the server calls the application, and at most one more."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from notify import Notifier
from notify.web import EventStream, NotifyApp
from notify.web.durable import DurableStreams
from notify_memory import MemoryStreamStore
from tests.parts import until

pytestmark = pytest.mark.anyio

MANY = 50

CONNECTIONS = {
    "stream": ("http", "/stream", ""),
    "websocket": ("websocket", "/ws", ""),
    "long poll": ("http", "/events", "after={}&wait=25"),
    "event_stream": ("http", "/live", ""),
    "durable, sse": ("http", "/alice", "offset=now&live=sse"),
    "durable, long poll": ("http", "/alice", "offset=now&live=long-poll"),
}
"""Kind of connection, path and query of each way to wait for events."""


class Server:
    """A server with one application, which calls it for each connection in a task of its own."""

    def __init__(self, notifier: Notifier[Any], way: str, position: str) -> None:
        self.kind, self.path, query = CONNECTIONS[way]
        self.query = query.format(position)
        limit = {"max_streams_per_user": 2 * MANY}
        apps: dict[str, Any] = {
            "/live": lambda scope, *channel: EventStream(notifier, "alice", scope, **limit)(scope, *channel),
            "/alice": DurableStreams(notifier, lambda request: "alice", **limit),
        }
        web = NotifyApp(notifier, lambda request: "alice", **limit)
        self.app = apps.get(self.path, web)
        self.leaving = anyio.Event()

    async def connect(self) -> None:
        """One connection, from its request until it leaves."""
        scope = {
            "type": self.kind, "method": "GET", "path": self.path, "query_string": self.query.encode(),
            "headers": [(b"host", b"test")], "scheme": "http", "client": ["127.0.0.1", 1], "subprotocols": [],
        }  # fmt: skip
        coming = [f"{self.kind}.connect" if self.kind == "websocket" else "http.request"]

        async def receive() -> dict[str, Any]:
            if not coming:
                await self.leaving.wait()
                return {"type": f"{self.kind}.disconnect"}
            return {"type": coming.pop()}

        async def send(message: dict[str, Any]) -> None:
            assert self.leaving.is_set() or message.get("status", 200) == 200, message

        await self.app(scope, receive, send)


def tasks() -> int:
    """Return how many tasks there are."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("way", CONNECTIONS)
async def test_at_most_one_more_task(way: str) -> None:
    """However it waits, a connection has at most one task in addition to the server's."""
    async with Notifier(MemoryStreamStore(), poll_interval=60.0) as notifier:
        position = (await notifier.push("alice", "first", None)).id
        server = Server(notifier, way, position)

        async def are_open(number: int) -> None:
            await until(lambda: notifier.statistics().open_streams == number, 20)
            await anyio.wait_all_tasks_blocked()

        async with anyio.create_task_group() as group:
            group.start_soon(server.connect)  # also starts what the application starts once, such as its ticker
            await are_open(1)
            before = tasks()
            for _ in range(MANY):
                group.start_soon(server.connect)
            await are_open(1 + MANY)
            assert MANY <= tasks() - before <= 2 * MANY
            server.leaving.set()
