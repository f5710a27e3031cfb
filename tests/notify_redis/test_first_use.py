"""What a new user gets wrong, and is told at once: URLs, the event loop, logins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from notify import Event, RoutingInfo
from notify.errors import UsageError
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from tests.servers.redis import Server, plain_info

pytestmark = pytest.mark.anyio

PARTS: list[Callable[[str], Any]] = [RedisStore, RedisStreamStore, RedisRouter, RedisPresence]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@localhost:6379/abc",
        "redis://localhost/1/2",
        "redis://localhost/abc?db=1",
        "redis://localhost?db=abc",
        "rediss://localhost/abc",
        "unix:///socket?db=abc",
        "redis+sentinel://localhost/main/abc",
        "rediss+sentinel://localhost/main?db=abc",
        "redis+cluster://localhost/abc",
        "redis+cluster://localhost?db=abc",
        "redis+cluster://localhost?db=1",
    ],
)
def test_databases_that_are_no_number(part: Callable[[str], Any], url: str) -> None:
    """A URL with a database that is no number, or that a cluster does not have, is refused, not read as database 0."""
    with pytest.raises(UsageError, match=r"'?db'?|database") as raised:
        part(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?foo=bar",
        "rediss://localhost/1?foo=bar&password=secret",
        "unix:///socket?foo=bar",
        "redis+sentinel://localhost/main?foo=bar",
        "redis+cluster://localhost?foo=bar",
    ],
)
def test_options_that_nobody_knows(part: Callable[[str], Any], url: str) -> None:
    """A URL with an option that no connection takes is refused by the option's name, without what may be secret."""
    with pytest.raises(UsageError, match=r": unexpected keyword argument 'foo'$") as raised:
        part(url)
    assert "secret" not in str(raised.value)


async def test_a_database_and_options_that_are_right(server: Server, prefix: str) -> None:
    """The database of a URL is the one that is used, and the driver's options may stand beside it."""
    store = RedisStore(f"{server.url}/3/?client_name=me&socket_keepalive=yes", prefix=prefix)
    async with store:
        await store.save(Event("alice", "t"))
    assert "db3" in plain_info(server, "keyspace")


def test_trio_is_refused(server: Server) -> None:
    """On trio every use raises UsageError, because the driver knows asyncio only."""

    async def use(part: Any, function: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(UsageError, match="runs on asyncio only"):
            await function(*args)
        await part.aclose()

    async def enter(stream_store: RedisStreamStore) -> None:
        async with stream_store.subscribe("alice"):
            pass

    async def receive(router: RedisRouter) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(router.receive, "here", print)

    async def everything() -> None:
        for name, args in {"save": (Event("alice", "t"),), "head": ("alice",), "__aenter__": ()}.items():
            store = RedisStore(server.url)
            await use(store, getattr(store, name), *args)
        stream_store = RedisStreamStore(server.url)
        await use(stream_store, enter, stream_store)
        router = RedisRouter(server.url)
        await use(router, router.route, Event("alice", "t"), RoutingInfo("there"))
        presence = RedisPresence(server.url)
        await use(presence, presence.register, "alice")

    anyio.run(everything, backend="trio")
