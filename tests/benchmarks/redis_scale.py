"""What thousands of users cost on Redis: to push to all of them, to replay a long log, and to have them there."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import anyio
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from notify import Event, Notifier
from notify_redis import RedisStreamStore
from notify_redis._names import RedisNames
from notify_redis._record import encode
from notify_redis._scripts import PUSH
from tests.servers.redis import Server, plain_info, single

from .harness import ROUNDS, Bar, Row, Spread, at_least, progress, rate, ratio, run

USERS = [f"user-{number}" for number in range(10_000)]
FEW = 100
PUSHES = 20_000
BATCH = 500
CHUNK = 32
EVENTS = 20_000
PAGE = 500
IDLE_SECONDS = 30.0
"""Long enough for one look at every user's log, which is taken every 18 to 28 seconds, and six canaries."""

KEYS = RedisNames("bench")
_LIMITS = (b"99999999999999", b"1000", b"~", b"604800000", b"604800000", b"86400000", b"4096")
_WAKE = (KEYS.named(0, "w"), KEYS.named(0, "wn"), b"300000", b"33554432", b"")
FIXED = (*_LIMITS, b"PUBLISH", b"", *_WAKE, b"")
"""What calls of the script have in common."""


def driver(server: Server) -> Redis:
    """The driver, not trying anything again by itself, and waiting for a connection rather than failing without one."""
    options: dict[str, Any] = {"port": server.port, "retry": Retry(NoBackoff(), 0), "protocol": 2}
    return Redis.from_pool(BlockingConnectionPool(max_connections=100, timeout=60, **options))


def names(user: str) -> tuple[bytes, ...]:
    """The keys of the script for one event."""
    stream, index, retries, _ = KEYS.of_user(user)
    return stream, index, retries, stream


@asynccontextmanager
async def beside(push: Callable[[], Awaitable[object]]) -> AsyncIterator[list[float]]:
    """Push one by one during that time, and note how long each took."""
    took: list[float] = []

    async def again_and_again() -> None:
        while True:
            started = time.perf_counter()
            await push()
            took.append(time.perf_counter() - started)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again_and_again)
        yield took
        tasks.cancel_scope.cancel()


async def driver_many(server: Server) -> float:
    """One event for each of many users, in pipelines of the same calls as ours, beside single pushes."""
    bodies = [encode(Event(user, "comment.created", {"post": 7})) for user in USERS]
    sha = PUSH.sha.decode()
    async with driver(server) as client, driver(server) as other:
        await client.script_load(PUSH.source)
        single_push = (sha, 4, *names("warm"), *FIXED, b"w", b"", encode(Event("warm", "comment.created")))
        async with beside(lambda: other.evalsha(*single_push)):
            started = time.perf_counter()
            for start in range(0, len(USERS), BATCH):
                pipeline = client.pipeline(transaction=False)
                for first in range(start, start + BATCH, CHUNK):
                    numbers = range(first, min(first + CHUNK, start + BATCH))
                    keys = [name for number in numbers for name in names(USERS[number])]
                    rest = [piece for number in numbers for piece in (b"a%x" % number, b"", bodies[number])]
                    pipeline.evalsha(sha, len(keys), *keys, *FIXED, *rest)
                await pipeline.execute()
            return time.perf_counter() - started


async def our_many(server: Server) -> tuple[float, list[float]]:
    """One `push_many`, beside single pushes; also how long each of these took."""
    async with aclosing(RedisStreamStore(server.url, prefix="bench")) as store, Notifier(store) as notifier:
        await notifier.push("warm", "comment.created")
        async with beside(lambda: notifier.push("warm", "comment.created")) as took:
            started = time.perf_counter()
            report = await notifier.push_many(USERS, "comment.created", {"post": 7})
            seconds = time.perf_counter() - started
            assert len(report.events) == len(USERS)
    return seconds, took


async def _fill(store: RedisStreamStore) -> None:
    for _ in range(EVENTS // BATCH):
        await store.save_many([Event("alice", "comment.created", {"post": 7})] * BATCH)


async def driver_pages(server: Server) -> float:
    """The entries of a long stream, page by page."""
    async with aclosing(RedisStreamStore(server.url, prefix="bench", max_len=2 * EVENTS)) as store:
        await _fill(store)
    stream = KEYS.stream("alice")
    async with driver(server) as client:
        started = time.perf_counter()
        left, after = EVENTS, "-"
        while page := await client.xrange(stream, after, count=PAGE):
            left -= len(page)
            after = "(" + page[-1][0].decode()
        assert not left
        return time.perf_counter() - started


async def our_replay(server: Server) -> float:
    """A stream from the beginning of the same log."""
    async with aclosing(RedisStreamStore(server.url, prefix="bench", max_len=2 * EVENTS)) as store:
        await _fill(store)
        async with Notifier(store) as notifier:
            started = time.perf_counter()
            left = EVENTS
            async for _ in notifier.subscribe("alice", "0"):
                left -= 1
                if not left:
                    break
            return time.perf_counter() - started


def _server_seconds(server: Server) -> float:
    found = plain_info(server, "cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def _open(store: RedisStreamStore, count: int, stack: AsyncExitStack) -> None:
    streams = [store.subscribe(user) for user in USERS[:count]]
    async with anyio.create_task_group() as tasks:
        for stream in streams:
            tasks.start_soon(stream.__aenter__)
    for stream in streams:
        stack.push_async_callback(stream.aclose)
    for start in range(0, count, BATCH):
        await store.save_many([Event(user, "warm") for user in USERS[start : min(start + BATCH, count)]])


def server_work(count: int) -> Callable[[Server], Awaitable[float]]:
    """Return what returns the server's seconds for each push, with so many users subscribed and pushed to."""

    async def job(server: Server) -> float:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(aclosing(RedisStreamStore(server.url, prefix="bench")))
            await _open(store, count, stack)
            before = _server_seconds(server)
            for start in range(0, PUSHES, BATCH):
                numbers = range(start, start + BATCH)
                await store.save_many([Event(USERS[n % count], "comment.created", {"post": n}) for n in numbers])
            return (_server_seconds(server) - before) / PUSHES

    return job


async def idling(server: Server) -> float:
    """The share of a core that a process takes with a stream open for each user, and nothing going on."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aclosing(RedisStreamStore(server.url, prefix="bench")))
        await _open(store, len(USERS), stack)
        before, started = time.process_time(), time.perf_counter()
        await anyio.sleep(IDLE_SECONDS)
        return (time.process_time() - before) / (time.perf_counter() - started)


def _on_server(job: Callable[[Server], Awaitable[float]]) -> float:
    with single() as server:
        return run(lambda: job(server))


def measure() -> list[Row]:
    """Run this part of the benchmark."""
    jobs = {
        "driver_many": driver_many,
        "driver_pages": driver_pages,
        "our_replay": our_replay,
        "few": server_work(FEW),
        "all": server_work(len(USERS)),
    }
    found: dict[str, list[float]] = {name: [] for name in [*jobs, "our_many"]}
    took: list[float] = []
    for number in range(1, ROUNDS + 1):
        progress(f"redis at scale: round {number} of {ROUNDS}")
        for name, job in jobs.items():
            found[name].append(_on_server(job))
        with single() as server:
            seconds, singles = run(lambda server=server: our_many(server))
        found["our_many"].append(seconds)
        took += singles
    progress(f"redis: idle for {IDLE_SECONDS:.0f} s")
    idle = _on_server(idling)
    many = ratio(found["driver_many"], found["our_many"])
    pages = ratio(found["driver_pages"], found["our_replay"])
    flat = ratio(found["few"], found["all"])
    return [
        Row(
            "redis push_many / redis-py",
            "users/s",
            rate(len(USERS), found["our_many"]),
            limit=rate(len(USERS), found["driver_many"]),
            ratio=many,
            bar=at_least(many, 0.7),
            note=f"{len(USERS):,} users; {len(took) / ROUNDS:.0f} single pushes meanwhile, half of them within "
            f"{statistics.median(took) * 1000:.1f} ms",
        ),
        Row(
            "redis replay / redis-py",
            "events/s",
            rate(EVENTS, found["our_replay"]),
            limit=rate(EVENTS, found["driver_pages"]),
            ratio=pages,
            bar=at_least(pages, 0.5),
            note=f"{EVENTS:,} events of one user, {PAGE} to a page",
        ),
        Row(
            f"redis server, {FEW} / {len(USERS):,} users",
            "ns/push",
            statistics.median(found["all"]) * 1e9,
            limit=statistics.median(found["few"]) * 1e9,
            ratio=flat,
            bar=at_least(flat, 0.7),
            note="processor time of the server",
        ),
        Row(
            f"redis idle, {len(USERS):,} users",
            "us/s",
            idle * 1e6,
            ratio=Spread(*[0.01 / idle] * 3),
            bar=Bar("< 10,000 us/s", idle < 0.01),
            note="processor time of the process that holds the streams",
        ),
    ]
