"""A server is frozen or dead: readers never wait for it, pushes have their verdict in time, and go on later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, Stream
from notify.errors import BackendError, ClosedError, PushRejectedError, PushUncertainError
from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.redis import Server as RedisServer

from .conftest import Start
from .places import COMPOSITIONS, Place

pytestmark = pytest.mark.anyio

TRIES = 5
TIMEOUT = 0.6
"""Seconds that a notifier gives its parts here."""

LIMIT = 0.1
"""Seconds within which a stream ends or gives up; the best of several tries counts, since others use the machine."""

REMOTE = [name for name in COMPOSITIONS if name != "sqlite"]


@contextmanager
def frozen(*servers: Any) -> Iterator[None]:
    for server in servers:
        server.freeze()
    try:
        yield
    finally:
        for server in servers:
            server.thaw()


@asynccontextmanager
async def waiting(stream: Stream) -> AsyncIterator[list[float]]:
    """A task that waits in `next` until the stream is closed, and then notes the time."""
    ended: list[float] = []

    async def wait() -> None:
        with pytest.raises(ClosedError):
            await stream.next()
        ended.append(monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        yield ended


async def best(act: Callable[[], Awaitable[float]]) -> float:
    """Return the shortest of several durations."""
    return min([await act() for _ in range(TRIES)])


async def seconds_to_give_up(stream: Stream) -> float:
    began = monotonic()
    with pytest.raises(TimeoutError):
        await stream.next(timeout=0.03)
    return monotonic() - began


async def seconds_to_close(notifier: Notifier, user: str = "alice") -> float:
    stream = await notifier.subscribe(user).__aenter__()
    async with waiting(stream) as ended:
        began = monotonic()
        await stream.aclose()
    return ended[0] - began


@pytest.mark.parametrize("composition", COMPOSITIONS)
async def test_readers_end_at_once(place: Place, start: Start, composition: str) -> None:
    """A deadline of `next` is kept, and closing wakes a waiting `next`, within a tenth of a second."""
    notifier = await start(place, COMPOSITIONS[composition])
    async with notifier.subscribe("alice") as stream:
        assert await best(lambda: seconds_to_give_up(stream)) < LIMIT
    assert await best(lambda: seconds_to_close(notifier)) < LIMIT


@pytest.mark.parametrize("composition", REMOTE)
async def test_readers_end_at_once_though_the_servers_hang(
    own_place: Place, own_redis: RedisServer, own_postgres: PostgresServer, start: Start, composition: str
) -> None:
    """The same with every server stopped: an open stream, its deadlines and its end need none of them."""
    notifier = await start(own_place, COMPOSITIONS[composition], timeout=TIMEOUT)
    streams = [await notifier.subscribe("alice").__aenter__() for _ in range(TRIES + 1)]
    with frozen(own_redis, own_postgres):
        assert await best(lambda: seconds_to_give_up(streams[0])) < LIMIT
        closed = []
        for stream in streams[1:]:
            async with waiting(stream) as ended:
                began = monotonic()
                await stream.aclose()
            closed.append(ended[0] - began)
        assert min(closed) < LIMIT
        with anyio.fail_after(20):
            async with waiting(streams[0]) as ended, anyio.create_task_group() as tasks:
                tasks.start_soon(notifier.aclose)
                await anyio.wait_all_tasks_blocked()
                assert ended  # earlier than the parts of the notifier, which wait for their servers


async def test_a_dead_log_shows_nothing(
    own_place: Place, own_redis: RedisServer, own_postgres: PostgresServer, start: Start
) -> None:
    """PostgreSQL is killed under a living router: pushes fail in time and unseen, and resume on their own."""
    parts = COMPOSITIONS["postgres-redis-redis"]
    timeout = 2.0  # enough to connect to a server that has just started, on a slow machine too
    one, two = [await start(own_place, parts, timeout=timeout, patience=timeout * 0.6) for _ in range(2)]
    async with one.subscribe("alice") as a, two.subscribe("alice") as b:
        await one.push("alice", "t", 0)
        for stream in (a, b):
            assert (await stream.next(timeout=10)).payload == 0
        own_postgres.kill()
        rejected: set[object] = set()
        for value in range(1, 4):
            began = monotonic()
            with pytest.raises((PushRejectedError, PushUncertainError)) as caught:
                await one.push("alice", "t", value)
            assert monotonic() - began < timeout + 1.5
            if caught.type is PushRejectedError:
                rejected.add(value)
        assert rejected >= {2, 3}  # by then there is no connection that anything could have been sent over
        own_postgres.start()
        stored: list[Event] = []

        async def goes_on() -> bool:
            try:
                event = await one.push("alice", "t", "after")
            except BackendError:
                return False
            assert event is not None
            stored.append(event)
            return True

        await until(goes_on, 20)
        store = one._store
        assert store is not None
        log = (await store.read("alice", "0", 100)).events
        assert rejected.isdisjoint(event.payload for event in log)
        assert log[-1] == stored[0]
        for stream in (a, b):
            assert [await stream.next(timeout=10) for _ in log[1:]] == [*log[1:]]
            assert not stream.gaps


@pytest.mark.parametrize("log", ["sqlite", "postgres"])
async def test_a_router_and_presence_that_hang_or_die(
    own_place: Place, own_redis: RedisServer, start: Start, log: str
) -> None:
    """Redis is frozen, then killed, beside another log: pushes are stored in bounded time and found by polling."""
    parts = COMPOSITIONS[f"{log}-redis-redis"]
    one, two = [await start(own_place, parts, timeout=TIMEOUT, poll_interval=0.3) for _ in range(2)]
    async with one.subscribe("alice") as here, two.subscribe("alice") as there:

        async def push(value: str) -> None:
            began = monotonic()
            event = await one.push("alice", "t", value)
            assert monotonic() - began < TIMEOUT + 3.0  # the presence check, then the save
            for stream in (here, there):
                assert await stream.next(timeout=10) == event

        await push("before")
        with frozen(own_redis):
            await push("frozen")
            await push("frozen still")
        own_redis.kill()
        await push("dead")
        await until(lambda: one.statistics().route_failures > 0, 10)
        own_redis.start()
        routed = one.statistics().routed

        async def is_routed() -> bool:
            await push("alive")
            return one.statistics().routed > routed

        await until(is_routed, 20)
        assert not here.gaps
        assert not there.gaps


async def test_presence_that_hangs_counts_as_online(own_place: Place, own_redis: RedisServer, start: Start) -> None:
    """With `offline="drop"` and a tracker that does not answer, events are stored rather than dropped."""
    notifier = await start(own_place, COMPOSITIONS["postgres-redis-redis"], timeout=TIMEOUT, offline="drop")
    assert await notifier.push("bob", "t", 1) is None
    with frozen(own_redis):
        assert await notifier.push("bob", "t", 2) is not None
    store = notifier._store
    assert store is not None
    assert [event.payload for event in (await store.read("bob", "0", 10)).events] == [2]
