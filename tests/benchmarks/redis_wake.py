"""Redis, told by a stream that every process reads (`wake="xread"`) next to pub/sub: the same work in the same run.

One store pushes and another one, with 10,000 open streams, receives, as two processes would. Then what a cut wire
costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from notify import Event, Notifier, StreamStore
from notify.testing import FaultProxy
from notify_redis import RedisStore, RedisStreamStore
from tests.servers.redis import Server, plain_info, single

from .harness import ROUNDS, Bar, Row, Spread, at_least, progress, rate, ratio, run
from .redis import PLAN, PUSHES_PER_SECOND, TIMED_PUSHES, steadily, with_readers
from .redis_scale import BATCH, PUSHES, USERS

Wake: TypeAlias = Literal["pubsub", "xread"]

CUT_SECONDS = 5.0
MISSED = 100
"""Users that are pushed to while the wire is cut."""


def _store(server: Server, wake: Wake) -> RedisStreamStore:
    return RedisStreamStore(server.url, prefix="bench", wake=wake)


def throughput(wake: Wake) -> Callable[[Server], Awaitable[float]]:
    """Return what returns the seconds until every stream has yielded everything that another store pushed."""

    async def job(server: Server) -> float:
        async with aclosing(_store(server, wake)) as pusher, aclosing(_store(server, wake)) as store:

            async def push_all(_tasks: TaskGroup) -> None:
                for start in range(0, PUSHES, BATCH):
                    numbers = range(start, start + BATCH)
                    await pusher.save_many([Event(PLAN[n], "comment.created", {"post": n}) for n in numbers])

            return await with_readers(pusher, store.subscribe, push_all)

    return job


def latencies(wake: Wake) -> Callable[[Server], Awaitable[list[float]]]:
    """Return what returns the seconds from each push to its yield at another store, at a steady rate."""

    async def job(server: Server) -> list[float]:
        found: list[float] = []
        opening = len(USERS)
        opened, done = anyio.Event(), anyio.Event()
        async with aclosing(_store(server, wake)) as pusher, aclosing(_store(server, wake)) as store:
            async with Notifier(pusher) as sender, Notifier(store) as notifier:

                async def read(user: str) -> None:
                    nonlocal opening
                    async with notifier.subscribe(user) as stream:
                        opening -= 1
                        if not opening:
                            opened.set()
                        async for event in stream:
                            found.append(time.perf_counter() - event.payload["at"])
                            if len(found) == TIMED_PUSHES:
                                done.set()

                async def push(number: int) -> None:
                    payload = {"at": time.perf_counter(), "text": "x" * 60}
                    await sender.push(PLAN[number], "comment.created", payload)

                async with anyio.create_task_group() as tasks:
                    for user in USERS:
                        tasks.start_soon(read, user)
                    await opened.wait()
                    await steadily(push)
                    await done.wait()
                    tasks.cancel_scope.cancel()
        return found

    return job


async def connections(server: Server) -> int:
    """How many connections a process with all these streams has."""
    before = int(plain_info(server, "clients")["connected_clients"])
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aclosing(_store(server, "xread")))
        await _open_all(store, stack)
        await store.save_many([Event(user, "t") for user in USERS[:BATCH]])
        return int(plain_info(server, "clients")["connected_clients"]) - before


async def _open_all(store: StreamStore, stack: AsyncExitStack) -> list[Any]:
    streams = [store.subscribe(user) for user in USERS]
    async with anyio.create_task_group() as tasks:
        for stream in streams:
            tasks.start_soon(stream.__aenter__)
    for stream in streams:
        stack.push_async_callback(stream.aclose)
    return streams


class _Counting(RedisStreamStore):
    """Counts the logs that are read."""

    reads = 0

    async def read(self, user: str, after: str, limit: int) -> Any:
        self.reads += 1
        return await super().read(user, after, limit)

    async def read_many(self, after: Any, limit: int) -> Any:
        self.reads += len(after)
        return await super().read_many(after, limit)


def cut(wake: Wake) -> Callable[[Server], Awaitable[int]]:
    """Return what returns how many logs are read because the wire was cut, and checks that nothing was missed."""

    async def job(server: Server) -> int:
        async with FaultProxy("127.0.0.1", server.port) as proxy, AsyncExitStack() as stack:
            url = server.url.replace(str(server.port), str(proxy.port))
            store = await stack.enter_async_context(aclosing(_Counting(url, prefix="bench", wake=wake)))
            pusher = await stack.enter_async_context(aclosing(RedisStore(server.url, prefix="bench")))
            streams = await _open_all(store, stack)
            await pusher.save_many([Event(user, "warm") for user in USERS[:MISSED]])
            for stream in streams[:MISSED]:
                await stream.next(10)
            store.reads = 0
            await proxy.refuse()
            await proxy.reset()
            events = await pusher.save_many([Event(user, "missed") for user in USERS[:MISSED]])
            await anyio.sleep(CUT_SECONDS)
            proxy.heal()
            for stream, event in zip(streams, events, strict=False):
                assert await stream.next(10) == event
            return store.reads

    return job


def measure() -> list[Row]:
    """Run this part of the benchmark."""
    jobs: dict[str, Callable[[Server], Awaitable[Any]]] = {}
    for wake in ("pubsub", "xread"):
        jobs |= {f"{wake} seconds": throughput(wake), f"{wake} latencies": latencies(wake)}
    found: dict[str, list[Any]] = {name: [] for name in jobs}
    for number in range(1, ROUNDS + 1):
        progress(f"redis wake streams: round {number} of {ROUNDS}")
        for name, job in jobs.items():
            found[name].append(_on_server(job))
    progress("redis wake streams: connections and cuts")
    opened, cuts = _on_server(connections), {wake: _on_server(cut(wake)) for wake in ("pubsub", "xread")}
    faster = ratio(found["pubsub seconds"], found["xread seconds"])
    rows = [
        Row(
            "redis xread / pubsub",
            "pushes/s",
            rate(PUSHES, found["xread seconds"]),
            limit=rate(PUSHES, found["pubsub seconds"]),
            ratio=faster,
            bar=at_least(faster, 0.8),
            note=f"{len(USERS):,} streams of another store; {opened} connections",
        )
    ]
    for percent, bar in ((50, 1.3), (99, None)):
        cuts_of = {
            wake: [statistics.quantiles(each, n=100)[percent - 1] * 1e6 for each in found[f"{wake} latencies"]]
            for wake in ("pubsub", "xread")
        }
        pairs = zip(cuts_of["pubsub"], cuts_of["xread"], strict=True)
        spread = Spread.of([theirs / ours for theirs, ours in pairs])
        rows.append(
            Row(
                f"redis xread / pubsub, p{percent}",
                "us",
                statistics.median(cuts_of["xread"]),
                limit=statistics.median(cuts_of["pubsub"]),
                ratio=spread,
                bar=None if bar is None else Bar(f">= {1 / bar:.2f}", spread.median >= 1 / bar),
                note=f"push to yield at another store, {PUSHES_PER_SECOND:,} pushes/s",
            )
        )
    rows.append(
        Row(
            "redis xread, wire cut for 5 s",
            "logs read",
            cuts["xread"],
            limit=cuts["pubsub"],
            bar=Bar(f"<= {MISSED}", cuts["xread"] <= MISSED),
            note=f"{len(USERS):,} streams, {MISSED} of which missed something; limit: pubsub",
        )
    )
    rows.append(
        Row("redis xread, connections", "", opened, bar=Bar("<= 3", opened <= 3), note=f"{len(USERS):,} streams")
    )
    return rows


def _on_server(job: Callable[[Server], Awaitable[Any]]) -> Any:
    with single() as server:
        return run(lambda: job(server))
