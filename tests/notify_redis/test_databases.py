"""Databases of one server, and prefixes that look alike: each part gets only what belongs to its own log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from redis.asyncio import ConnectionPool, Redis, Sentinel

from notify import Notifier
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._names import RedisNames
from tests.servers.redis import Server, sentinels

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def streaming(url: Any, prefix: str) -> AsyncIterator[Notifier]:
    async with RedisStreamStore(url, prefix=prefix) as store, Notifier(store) as notifier:
        yield notifier


@asynccontextmanager
async def routing(url: Any, prefix: str) -> AsyncIterator[Notifier]:
    parts = RedisStore(url, prefix=prefix), RedisRouter(url, prefix=prefix), RedisPresence(url, prefix=prefix)
    async with AsyncExitStack() as stack:
        store, router, presence = [await stack.enter_async_context(each) for each in parts]
        yield await stack.enter_async_context(Notifier(store, router=router, presence=presence))


async def heard(reader: Notifier, *writers: Notifier) -> list[str]:
    """What a stream of a new user gets when each notifier pushes, sends and broadcasts; the reader's own come last."""
    async with reader.subscribe("alice", "0") as stream:
        for number, writer in enumerate([*writers, reader]):
            await writer.push("alice", f"stored{number}")
            await writer.push("alice", f"sent{number}", ephemeral=True)
            await writer.broadcast(f"broadcast{number}")
        seen: list[str] = []
        while f"broadcast{len(writers)}" not in seen:
            seen.append((await stream.next(10)).type)
        assert not stream.gaps
        return sorted(seen)


OWN = ["broadcast1", "sent1", "stored1"]


@pytest.mark.parametrize("world", [streaming, routing])
@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (1, 11), (3, 2)])
async def test_databases_of_one_server(
    server: Server, prefix: str, world: Callable[..., Any], numbers: tuple[int, int]
) -> None:
    """Whatever is pushed, sent or broadcast in one database reaches no stream of another one."""
    here, there = (f"{server.url}/{number}" for number in numbers)
    async with world(here, prefix) as reader, world(there, prefix) as writer:
        assert await heard(reader, writer) == OWN


@pytest.mark.parametrize(
    "prefixes", [("a", "a:b"), ("a:b", "a"), ("a", "a:d1"), ("a.", "a-"), ("a:", "a"), ("a:b", "a@b")]
)
@pytest.mark.parametrize("world", [streaming, routing])
async def test_prefixes_that_look_alike(victim: Server, world: Callable[..., Any], prefixes: tuple[str, str]) -> None:
    """A prefix that continues another one, in any of its legal characters, is another world."""
    first, second = prefixes
    async with world(victim.url, first) as reader, world(f"{victim.url}/1", first) as beside:
        async with world(victim.url, second) as writer:
            assert await heard(reader, writer) == OWN
            assert await heard(beside, writer) == OWN


async def test_one_database_by_many_names(victim: Server, prefix: str) -> None:
    """A database is one world however it is named: in the path, as an option, by a client or by a pool."""
    port = victim.port
    client, text = Redis(port=port, db=2), Redis(port=port, db="2")
    pool = ConnectionPool.from_url(f"{victim.url}?db=2")
    async with aclosing(client), aclosing(text), aclosing(pool), AsyncExitStack() as stack:
        worlds = [
            await stack.enter_async_context(streaming(each, prefix))
            for each in (f"{victim.url}/2", f"{victim.url}?db=2", client, text, pool)
        ]
        streams = [await stack.enter_async_context(world.subscribe("alice")) for world in worlds]
        for world in worlds:
            event = await world.push("alice", "t")
            assert [await stream.next(10) for stream in streams] == [event] * len(streams)


async def test_channels_of_database_0_stay(server: Server, prefix: str) -> None:
    """Processes of an earlier version, whose channels have the streams' names, are told and heard."""
    names = RedisNames(prefix)
    assert names.channel("alice") == names.stream("alice")
    assert names.named_channel(0, "all") == names.named(0, "all")
    async with aclosing(Redis(port=server.port)) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(names.stream("alice"))
        async with streaming(server.url, prefix) as notifier:
            event = await notifier.push("alice", "t")
            with anyio.fail_after(5):
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        assert message["data"].startswith(event.id.encode())
                        break


async def test_channels_cannot_collide() -> None:
    """No channel of one database or prefix is one of another, whatever the users and instances are called."""
    seen: set[bytes] = set()
    hostile = ["a", "a:d1", "d1", "a:", ":d1", "%3Ad1", "all", ":all", "@", "a{b}"]
    for prefix in ("a", "a:d1", "a:a", "a:"):
        for database in (0, 1, 11):
            names = RedisNames(prefix, database)
            for user in hostile:
                channels = {names.channel(user), *(names.named_channel(0, kind, user) for kind in ("i", "c", "all"))}
                assert len(channels) == 4
                assert not channels & seen
                seen |= channels


@pytest.mark.slow
async def test_databases_behind_sentinels(prefix: str) -> None:
    """The database of a service is a world of its own too, by URL and by client."""
    with sentinels() as all_:
        second = all_.url.removesuffix("0") + "1"
        watchers = Sentinel([("127.0.0.1", all_.sentinels[0].port)])
        client = watchers.master_for(all_.service, db=1)
        async with aclosing(client), streaming(all_.url, prefix) as reader, streaming(client, prefix) as writer:
            assert await heard(reader, writer) == OWN
            async with streaming(second, prefix) as other, other.subscribe("bob") as stream:
                event = await writer.push("bob", "t")
                assert await stream.next(10) == event
        for sentinel in watchers.sentinels:
            await sentinel.aclose()
