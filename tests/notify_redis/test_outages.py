"""A server that is known to be unreachable fails every call of every part at once, and is noticed when it is back."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from itertools import count
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import Event, Notifier, RoutingInfo
from notify.errors import BackendError
from notify.testing import FaultProxy, Faults
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._reach import FAILURE_MEMORY, Reach, reach_of
from tests.parts import until
from tests.servers.redis import Cluster, Server, cluster, free_port, sentinels, single

pytestmark = pytest.mark.anyio

AT_ONCE = 0.5
"""Seconds within which a call fails that waits for nothing, on a busy machine too; one that waited would take 4."""

Calls = dict[str, Callable[[], Awaitable[object]]]


@asynccontextmanager
async def calls_at(url: str, prefix: str) -> AsyncIterator[Calls]:
    """One call of every part, by its name."""
    async with AsyncExitStack() as stack:
        store, other = RedisStreamStore(url, prefix=prefix), RedisStore(url, prefix=prefix)
        presence, router = RedisPresence(url, prefix=prefix), RedisRouter(url, prefix=prefix)
        for part in (store, other, presence, router):
            stack.push_async_callback(part.aclose)
        event, numbers = Event("alice", "t"), count()
        yield {
            "save": lambda: store.save(event),
            "read": lambda: store.read("alice", "0", 10),
            "head": lambda: store.head("alice"),
            "read_many": lambda: store.read_many({"alice": "0", "bob": "0"}, 10),
            "trim": lambda: store.trim("1-0"),
            "save elsewhere": lambda: other.save(event),
            "read elsewhere": lambda: other.read("alice", "0", 10),
            "locate": lambda: presence.locate(["alice"]),
            "register": lambda: presence.register(f"user{next(numbers)}"),
            "route": lambda: router.route(event, RoutingInfo("there")),
        }


async def failed_after(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds until the call fails with the library's error; -1 if it works."""
    began = time.monotonic()
    try:
        await call()
    except BackendError:
        return time.monotonic() - began
    return -1.0


async def assert_known(calls: Calls, *, bound: float = AT_ONCE) -> None:
    """Each call fails at once, the first one too; of the bound the best counts, since other work may come between."""
    for name, call in calls.items():
        took = [await failed_after(call) for _ in range(3)]
        assert 0 <= min(took) < bound, (name, took)
        assert max(took) < bound + 2.5, (name, took)


async def all_work(calls: Calls) -> bool:
    return all([await failed_after(call) < 0 for call in calls.values()])


@contextmanager
def refused() -> Iterator[str]:
    yield f"redis://127.0.0.1:{free_port()}"


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers, as one that is frozen or behind a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def no_sentinel() -> Iterator[str]:
    yield f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/main/0"


@contextmanager
def silent_sentinel() -> Iterator[str]:
    with silent() as url:
        yield f"redis+sentinel://{url.removeprefix('redis://')}/main/0"


@contextmanager
def no_cluster() -> Iterator[str]:
    yield f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"


@pytest.mark.parametrize("place", [refused, silent, no_sentinel, silent_sentinel, no_cluster])
async def test_a_server_that_was_never_there(prefix: str, place: Callable[[], Any]) -> None:
    """The first calls wait for a server that may be starting, all at the same time; later ones fail at once."""
    with place() as url:
        async with calls_at(url, prefix) as calls:
            took: dict[str, float] = {}

            async def first(name: str) -> None:
                took[name] = await failed_after(calls[name])

            async with anyio.create_task_group() as tasks:
                for name in calls:
                    tasks.start_soon(first, name)
            assert all(0 <= seconds < 5 for seconds in took.values()), took
            await assert_known(calls)


async def test_a_server_that_dies_and_returns(victim: Server, prefix: str) -> None:
    """After the first failure every call fails at once; when the server is back, calls work without a failed one."""
    async with calls_at(victim.url, prefix) as calls:
        assert await all_work(calls)
        victim.kill()
        assert await failed_after(calls["save"]) >= 0
        await assert_known(calls)
        await anyio.sleep(1.0)
        await assert_known(calls)
        await anyio.to_thread.run_sync(victim.start)
        await anyio.sleep(2.5)  # nobody asks meanwhile
        assert await all_work(calls)


@pytest.mark.parametrize("first", ["save", "read", "locate", "route"])
async def test_a_server_that_freezes(victim: Server, prefix: str, first: str) -> None:
    """One call that finds a frozen server is enough for all parts; when it goes on, so do they."""
    async with calls_at(victim.url, prefix) as calls:
        assert await all_work(calls)
        victim.freeze()
        assert await failed_after(calls[first]) >= 0
        await assert_known(calls)
        await anyio.sleep(1.0)
        await assert_known(calls)
        victim.thaw()
        await until(lambda: all_work(calls), 10)


async def test_a_network_that_swallows_everything(server: Server, prefix: str) -> None:
    """The same where the network swallows what is sent, on old connections and on new ones."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with calls_at(f"redis://127.0.0.1:{proxy.port}", prefix) as calls:
            assert await all_work(calls)
            proxy.up = proxy.down = Faults(blackhole=True)
            assert await failed_after(calls["read"]) >= 0
            await assert_known(calls)
            proxy.heal()
            await proxy.reset()
            await until(lambda: all_work(calls), 10)


async def test_a_short_outage_is_waited_for(victim: Server, prefix: str) -> None:
    """A server that restarts within a second costs a delay, not a failed call."""
    async with calls_at(victim.url, prefix) as calls:
        assert await all_work(calls)
        victim.kill()
        results: list[float] = []

        async def call(name: str) -> None:
            results.append(await failed_after(calls[name]))

        async with anyio.create_task_group() as tasks:
            for name in ("read", "locate", "route"):
                tasks.start_soon(call, name)
            await anyio.to_thread.run_sync(victim.start)
        assert results == [-1.0] * 3


async def test_a_login_that_is_refused_says_nothing_about_others(server: Server, prefix: str) -> None:
    """A part with a wrong password fails at once; parts with the right one, at the same address, work."""
    server.ask("ACL", "SETUSER", "right", "on", ">secret", "~*", "&*", "+@all")
    wrong, right = (f"redis://right:{word}@127.0.0.1:{server.port}" for word in ("other", "secret"))
    async with calls_at(wrong, prefix) as failing, calls_at(right, prefix) as working:
        for _ in range(3):
            await assert_known(failing, bound=1.0)
            assert await all_work(working)


async def test_a_push_with_presence_fails_at_once(prefix: str) -> None:
    """In an outage a notifier's push, with presence and a router, fails as fast as the store alone."""
    with refused() as url:
        parts = RedisStreamStore(url, prefix=prefix), RedisPresence(url, prefix=prefix)
        async with aclosing(parts[0]) as store, aclosing(parts[1]) as presence:
            async with Notifier(store, presence=presence, timeout=20.0) as notifier:
                assert await failed_after(lambda: notifier.push("alice", "t")) >= 0
                best = min([await failed_after(lambda: notifier.push("alice", "t")) for _ in range(3)])
                assert 0 <= best < AT_ONCE
                began = time.monotonic()
                health = await notifier.check()
                assert not health.ok
                assert time.monotonic() - began < 3.0  # a part would wait for 4


async def test_starting_without_the_server(prefix: str) -> None:
    """An application whose parts are not entered starts without Redis, and works once it is there."""
    with single() as server:
        server.kill()
        store, presence = RedisStreamStore(server.url, prefix=prefix), RedisPresence(server.url, prefix=prefix)
        router = RedisRouter(server.url, prefix=prefix)
        async with aclosing(store), presence, router:
            with anyio.fail_after(7):
                async with Notifier(store, presence=presence, router=router) as notifier:
                    assert await failed_after(lambda: notifier.push("alice", "t")) >= 0
                    await anyio.to_thread.run_sync(server.start)

                    async def works() -> bool:
                        return await failed_after(lambda: notifier.push("alice", "t")) < 0

                    await until(works, 5)
            with pytest.raises(BackendError):
                async with RedisStore("redis://127.0.0.1:1", prefix=prefix, timeout=0.5):
                    pass


def test_verdicts_are_shared_by_address() -> None:
    """Two parts at one address share what is known of it; another port is another server."""
    one, same, other = reach_of("a:1"), reach_of("a:1"), reach_of("a:2")
    assert one is same
    one.failed(OSError("gone"), time.monotonic() - 2.0)
    assert same.is_down
    assert not other.is_down
    same.succeeded()
    assert not one.is_down
    old = Reach()
    old.failed(OSError(), time.monotonic() - 20.0)
    old._failed_at -= FAILURE_MEMORY + 1
    assert old.is_failing
    assert not old.is_down


async def test_a_reply_ends_an_outage(server: Server, prefix: str) -> None:
    """Whichever part has noticed it: a reply to any other on a connection that has lasted shows that it is over."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.head("alice")
        reach = reach_of(f"127.0.0.1:{server.port}")
        reach.failed(OSError("no answer"), time.monotonic())
        assert reach.is_failing
        await store.head("alice")
        assert not reach.is_failing


@pytest.mark.slow
async def test_a_master_of_a_cluster_that_is_replaced(prefix: str) -> None:
    """While a master is away its users' calls fail at once; the replica that takes over is found in the background."""
    with cluster(replicas=True) as all_:
        async with calls_at(all_.url, prefix) as calls:
            assert await all_work(calls)
            await kill_master_of_alice(all_)
            assert await failed_after(calls["read"]) >= 0
            await until(lambda: all_work({name: calls[name] for name in ("save", "read", "head")}), 40)


async def kill_master_of_alice(all_: Cluster) -> None:
    async with aclosing(RedisStore(all_.url)) as store:
        await store.head("alice")
        address = store._client.node_of(store._names.of_user("alice")[3]).address
    assert address is not None
    next(each for each in all_.masters if each.port == address[1]).kill()


@pytest.mark.slow
async def test_a_master_behind_sentinels_that_is_replaced(prefix: str) -> None:
    """Calls fail at once until the sentinels have chosen another master, which is then used."""
    with sentinels() as all_:
        async with calls_at(all_.url, prefix) as calls:
            assert await all_work(calls)
            all_.master.kill()
            assert await failed_after(calls["read"]) >= 0
            await until(lambda: all_work(calls), 40)
