"""HTTP clients whose connection to the server is cut, or whose server process ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import Notifier
from notify.testing.faults import FaultProxy
from notify.web import NotifyApp
from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.redis import Server as RedisServer
from tests.web.clients import RawClient
from tests.web.servers import WebServer
from tests.web.test_sse import served, stream

from .conftest import Start
from .places import COMPOSITIONS, Place

pytestmark = pytest.mark.anyio

LINKED = {
    "redis": "redis",
    "postgres": "postgres",
    "postgres-redis-redis": "redis",
    "redis-postgres-none": "postgres",
    "sqlite-redis-redis": "redis",
}
"""Compositions whose events reach another instance over a network, and which server they go through."""

DURING = 20
PAUSE = 0.25
"""Events that are pushed while the link is cut, and the seconds between them: five in all."""

MANY = 1_000
USERS = 50


def payloads(client: RawClient) -> list[Any]:
    return [message["payload"] for message in client.messages]


@pytest.mark.slow
@pytest.mark.parametrize("composition", LINKED)
async def test_a_link_that_is_cut_for_five_seconds(
    place: Place, redis: RedisServer, postgres: PostgresServer, start: Start, composition: str
) -> None:
    """The client stays connected, and gets what was pushed elsewhere: each event once, in order, without a gap.

    A stream store finds it when it receives again; for what a router has missed, a plain store is polled.
    """
    link = LINKED[composition]
    server = {"redis": redis, "postgres": postgres}[link]
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        cut = {"redis": f"redis://127.0.0.1:{proxy.port}"} if link == "redis" else {
            "dsn": place.dsn.replace(f":{postgres.port}", f":{proxy.port}")
        }  # fmt: skip
        assert place != replace(place, **cut)
        here = await start(replace(place, **cut), COMPOSITIONS[composition], poll_interval=1.0)
        there = await start(place, COMPOSITIONS[composition])
        app = NotifyApp(here, lambda request: request.query["user"])
        async with served(app) as port, stream(port) as client:
            await client.read_until(b"notify.sync")
            await there.push("alice", "t", 0)
            await client.read_until(b'"payload":0,')
            proxy.reset_new = True
            await proxy.reset()
            for number in range(1, 1 + DURING):
                await there.push("alice", "t", number)
                await anyio.sleep(PAUSE)
            proxy.heal()
            await client.read_until(f'"payload":{DURING},'.encode(), 60)
            await there.push("alice", "t", 1 + DURING)
            await client.read_until(f'"payload":{1 + DURING},'.encode(), 60)
            await client.read_until(b"}\n\n")
            assert payloads(client) == [*range(2 + DURING)]
            assert [frame.event for frame in client.frames if frame.event] == ["notify.sync"]
            app.begin_shutdown()


ROUNDS = 8
EACH = 20
"""Clients of a round."""

POOL = 10
"""Connections to the database, and their tasks, that a busy round may have opened: the pool keeps eight at the most."""


def held(notifier: Notifier[Any]) -> tuple[int, int, int]:
    """What is open in this process: streams, tasks, descriptors."""
    return notifier.statistics().open_streams, len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.parametrize("composition", ["redis", "postgres"])
async def test_links_that_are_lost_again_and_again(
    place: Place, redis: RedisServer, postgres: PostgresServer, start: Start, composition: str
) -> None:
    """Clients come and go while the link is lost and found: nothing of them is left, and each saw what was pushed."""
    server = {"redis": redis, "postgres": postgres}[composition]
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        cut = {"redis": f"redis://127.0.0.1:{proxy.port}"} if composition == "redis" else {
            "dsn": place.dsn.replace(f":{postgres.port}", f":{proxy.port}")
        }  # fmt: skip
        here = await start(replace(place, **cut), COMPOSITIONS[composition])
        there = await start(place, COMPOSITIONS[composition])
        app = NotifyApp(here, lambda request: request.query["user"])
        async with served(app) as port:
            before = (0, 0, 0)
            for number in range(ROUNDS):
                async with AsyncExitStack() as stack:
                    clients = [await stack.enter_async_context(stream(port)) for _ in range(EACH)]
                    for client in clients:
                        await client.read_until(b"notify.sync")
                    await proxy.reset()
                    await there.push("alice", "t", number)
                    for client in clients:
                        await client.read_until(f'"payload":{number},'.encode(), 60)
                        client.leave("rst" if number % 2 else "fin")
                if number == 1:  # the first rounds have opened what stays open
                    await until(lambda: here.statistics().open_streams == 0, 20)
                    before = held(here)
            await until(lambda: here.statistics().open_streams == 0, 20)
            await until(lambda: all(now <= then + POOL for now, then in zip(held(here), before, strict=True)), 30)
            app.begin_shutdown()


def url_of(place: Place, store: str) -> str:
    """The URL of a store at a place of this test's own."""
    if store == "redis":
        return f"{place.redis}?prefix={place.name}"
    if store == "postgres":
        return f"{place.dsn}{'&' if '?' in place.dsn else '?'}schema={place.name}"
    return f"sqlite:///{place.file}"


@pytest.mark.slow
@pytest.mark.timeout(300)  # two thousand connections, on a busy machine
@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
async def test_a_server_with_a_thousand_streams_ends(place: Place, store: str, tmp_path: Path) -> None:
    """SIGTERM: each client is told, at times that are spread; the process ends; on the next one nothing is missing."""
    url = url_of(place, store)
    options = json.dumps({"max_streams_per_user": MANY, "heartbeat": 60.0})
    serve = partial(
        WebServer, "uvicorn", "tests.web.apps.plain:app", tmp_path, env={"TEST_STORE": url, "TEST_OPTIONS": options}
    )
    async with AsyncExitStack() as stack:
        notifier = await stack.enter_async_context(Notifier.from_url(url))
        server = stack.enter_context(serve())
        users = [f"user{number % USERS}" for number in range(MANY)]
        clients = [await stack.enter_async_context(RawClient(server.port, f"/stream?user={user}")) for user in users]
        for client in clients:
            await client.read_until(b"notify.sync", 60)
        await notifier.push_many(set(users), "t", 0)
        for client in clients:
            await client.read_until(b'"payload":0,', 60)
        server.send(signal.SIGTERM)
        await notifier.push_many(set(users), "t", 1)
        for client in clients:
            await client.read_all(60)
        await anyio.to_thread.run_sync(server.wait, 30.0)  # by itself, uvicorn would wait for them without end
        assert all(client.complete for client in clients)
        assert {client.frames[-1].json["reason"] for client in clients} == {"shutdown"}
        waits = [client.frames[-1].json["retry"] for client in clients]
        assert len(set(waits)) > MANY / 4
        assert max(waits) - min(waits) > 3_000
        await notifier.push_many(set(users), "t", 2)
        server = stack.enter_context(serve(port=server.port))
        for user, client in zip(users, clients, strict=True):
            async with stream(server.port, user, last_id=client.last_id) as again:
                await again.read_until(b"notify.sync", 60)
                assert payloads(client) + payloads(again) == [0, 1, 2]
