"""Pushes through a private Redis server to 10,000 users with an open stream each, all in one process.

Limit A is the script of a push, sent through the driver's pipelines, and the driver's bare pub/sub reader: what anybody
would write with redis-py. Limit B is the same design as ours spoken directly through hiredis over two connections:
nothing is encoded, decoded, remembered or handed to anybody. Both have their events made before the clock runs. All
send the same bytes for an event, and have had an event once its announcement, or our stream, has brought it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import anyio
import hiredis
from anyio.abc import TaskGroup

from notify import Event, Notifier, Stream
from notify_redis import RedisStreamStore
from notify_redis._record import encode
from notify_redis._scripts import PUSH
from tests.servers.redis import Server, single

from . import redis_scale
from .harness import ROUNDS, Bar, Row, Spread, at_least, progress, rate, ratio, run
from .redis_scale import BATCH, CHUNK, FIXED, KEYS, PUSHES, USERS, driver, names

PUSHERS = 500
PUSHES_PER_SECOND = 1000
TIMED_PUSHES = 3000

T = TypeVar("T")

PLAN = random.Random(1).choices(USERS, k=PUSHES)
_EXPECTED = Counter(PLAN)


def _nonce(number: int) -> bytes:
    return b"abcdef012345%x" % number  # as long as ours


def _bodies(count: int) -> list[bytes]:
    return [encode(Event(PLAN[n], "comment.created", {"post": n})) for n in range(count)]


# -- limit A: the driver as it comes ---------------------------------------------------------------------------------


async def through_driver(server: Server) -> float:
    """Pipelines of the driver, and its reader."""
    client, bodies = driver(server), _bodies(PUSHES)
    await client.script_load(PUSH.source)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    channels = [KEYS.stream(user) for user in USERS]
    for start in range(0, len(channels), BATCH):
        await subscription.subscribe(*channels[start : start + BATCH])
    while await subscription.get_message(timeout=0.2) is not None:
        pass
    heard = 0

    async def listen() -> None:
        nonlocal heard
        while heard < PUSHES:
            if await subscription.get_message(timeout=5) is not None:
                heard += 1

    reader = asyncio.create_task(listen())
    await asyncio.sleep(0.5)  # the confirmations of 10,000 subscriptions
    started = time.perf_counter()
    for start in range(0, PUSHES, BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, start + BATCH):
            nonce = _nonce(number)
            pipeline.evalsha(PUSH.sha.decode(), 4, *names(PLAN[number]), *FIXED, nonce, b"", bodies[number])
        await pipeline.execute()
    await reader
    seconds = time.perf_counter() - started
    await subscription.aclose()
    await client.aclose()
    return seconds


async def latencies_through_driver(server: Server) -> list[float]:
    """The seconds from each push to its message, at a steady rate."""
    client = driver(server)
    await client.script_load(PUSH.source)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    channels = [KEYS.stream(user) for user in USERS]
    for start in range(0, len(channels), BATCH):
        await subscription.subscribe(*channels[start : start + BATCH])
    while await subscription.get_message(timeout=0.2) is not None:
        pass
    began: dict[bytes, float] = {}
    latencies: list[float] = []

    async def listen() -> None:
        while len(latencies) < TIMED_PUSHES:
            message = await subscription.get_message(timeout=5)
            if message is not None:
                latencies.append(time.perf_counter() - began[message["data"].rpartition(b"#")[2]])

    async def push(number: int) -> None:
        mark = b"%d" % number
        began[mark] = time.perf_counter()
        arguments = (*names(PLAN[number]), *FIXED, _nonce(number), b"", b"x" * 100 + b"#" + mark)
        await client.evalsha(PUSH.sha.decode(), 4, *arguments)

    reader = asyncio.create_task(listen())
    await asyncio.sleep(0.5)
    await steadily(push)
    await reader
    await subscription.aclose()
    await client.aclose()
    return latencies


async def steadily(push: Callable[[int], Awaitable[None]]) -> None:
    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(TIMED_PUSHES):
            await anyio.sleep(max(0.0, started + number / PUSHES_PER_SECOND - time.perf_counter()))
            tasks.start_soon(push, number)


# -- limit B: the protocol itself ------------------------------------------------------------------------------------


class _Raw:
    """A connection that reads replies with hiredis."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.parser = hiredis.Reader()

    async def replies(self) -> list[object]:
        """Return the replies that came with one read of the socket."""
        self.parser.feed(await self.reader.read(65_536))
        found = []
        while (reply := self.parser.gets()) is not False:
            found.append(reply)
        return found

    async def wait(self, count: int) -> None:
        while count > 0:
            count -= len(await self.replies())


async def _raw(server: Server) -> _Raw:
    return _Raw(*await asyncio.open_connection("127.0.0.1", server.port))


async def through_hiredis(server: Server) -> float:
    """The same script and channels, without a driver."""
    pushing, listening, bodies = await _raw(server), await _raw(server), _bodies(PUSHES)
    pushing.writer.write(hiredis.pack_command((b"SCRIPT", b"LOAD", PUSH.source)))
    await pushing.wait(1)
    channels = [KEYS.stream(user) for user in USERS]
    listening.writer.write(hiredis.pack_command((b"SUBSCRIBE", *channels)))
    await listening.wait(len(channels))
    reader = asyncio.create_task(listening.wait(PUSHES))
    started = time.perf_counter()
    for start in range(0, PUSHES, BATCH):
        commands = []
        for first in range(start, start + BATCH, CHUNK):
            numbers = range(first, min(first + CHUNK, start + BATCH))
            keys = [name for number in numbers for name in names(PLAN[number])]
            rest = [piece for number in numbers for piece in (_nonce(number), b"", bodies[number])]
            command = (b"EVALSHA", PUSH.sha, len(keys), *keys, *FIXED, *rest)
            commands.append(hiredis.pack_command(command))
        pushing.writer.writelines(commands)
        await pushing.wait(len(commands))
    await reader
    seconds = time.perf_counter() - started
    for connection in (pushing, listening):
        connection.writer.close()
        await connection.writer.wait_closed()
    return seconds


# -- ours ------------------------------------------------------------------------------------------------------------


async def with_readers(
    store: RedisStreamStore, streams: Callable[[str], Stream], push_all: Callable[[TaskGroup], Awaitable[None]]
) -> float:
    """Return the seconds until every stream has yielded everything, once each has yielded something before."""
    left = PUSHES
    opening = warming = len(USERS)
    finished = 0.0
    opened, warm, done, over = (anyio.Event() for _ in range(4))

    async def read(user: str) -> None:
        nonlocal left, opening, warming, finished
        async with streams(user) as stream:
            opening -= 1
            if not opening:
                opened.set()
            await stream.next()
            warming -= 1
            if not warming:
                warm.set()
            for _ in range(_EXPECTED[user]):
                await stream.next()
                left -= 1
                if not left:
                    finished = time.perf_counter()
                    done.set()
            await over.wait()

    async with anyio.create_task_group() as tasks:
        for user in USERS:
            tasks.start_soon(read, user)
        await opened.wait()
        for start in range(0, len(USERS), BATCH):
            await store.save_many([Event(user, "warm") for user in USERS[start : start + BATCH]])
        await warm.wait()
        gc.collect()
        started = time.perf_counter()
        await push_all(tasks)
        await done.wait()
        over.set()
    return finished - started


async def batches(server: Server) -> float:
    """Batches of as many as the limits send, through a stream store."""
    async with aclosing(RedisStreamStore(server.url, prefix="bench")) as store:

        async def push_all(_tasks: TaskGroup) -> None:
            for start in range(0, PUSHES, BATCH):
                numbers = range(start, start + BATCH)
                await store.save_many([Event(PLAN[n], "comment.created", {"post": n}) for n in numbers])

        return await with_readers(store, store.subscribe, push_all)


async def pushers(server: Server) -> float:
    """As many tasks as a batch of the limits has pushes, each pushing one by one through a notifier."""
    async with aclosing(RedisStreamStore(server.url, prefix="bench")) as store, Notifier(store) as notifier:

        async def push(numbers: range) -> None:
            for number in numbers:
                await notifier.push(PLAN[number], "comment.created", {"post": number})

        async def push_all(tasks: TaskGroup) -> None:
            for pusher in range(PUSHERS):
                tasks.start_soon(push, range(pusher, PUSHES, PUSHERS))

        return await with_readers(store, notifier.subscribe, push_all)


async def our_latencies(server: Server) -> list[float]:
    """The seconds from each push to its yield, at a steady rate."""
    latencies: list[float] = []
    opening = len(USERS)
    opened, done = anyio.Event(), anyio.Event()
    async with aclosing(RedisStreamStore(server.url, prefix="bench")) as store, Notifier(store) as notifier:

        async def read(user: str) -> None:
            nonlocal opening
            async with notifier.subscribe(user) as stream:
                opening -= 1
                if not opening:
                    opened.set()
                async for event in stream:
                    latencies.append(time.perf_counter() - event.payload["at"])
                    if len(latencies) == TIMED_PUSHES:
                        done.set()

        async def push(number: int) -> None:
            await notifier.push(PLAN[number], "comment.created", {"at": time.perf_counter(), "text": "x" * 60})

        async with anyio.create_task_group() as tasks:
            for user in USERS:
                tasks.start_soon(read, user)
            await opened.wait()
            await steadily(push)
            await done.wait()
            tasks.cancel_scope.cancel()
    return latencies


def _rounds(name: str, contenders: dict[str, Callable[[Server], Awaitable[T]]]) -> dict[str, list[T]]:
    results: dict[str, list[T]] = {contender: [] for contender in contenders}
    for number in range(1, ROUNDS + 1):
        progress(f"{name}: round {number} of {ROUNDS}")
        for contender, job in contenders.items():
            with single() as server:
                results[contender].append(run(lambda job=job, server=server: job(server)))
    return results


def measure() -> list[Row]:
    """Run the benchmark."""
    contenders = {"driver": through_driver, "hiredis": through_hiredis, "batches": batches, "pushers": pushers}
    seconds = _rounds("redis", contenders)
    rows = []
    for mine, limit, bar in [
        ("batches", "driver", 1.0),
        ("batches", "hiredis", 0.6),
        ("pushers", "driver", 1.0),
        ("pushers", "hiredis", None),
    ]:
        spread = ratio(seconds[limit], seconds[mine])
        rows.append(
            Row(
                f"redis {mine} / {'redis-py' if limit == 'driver' else limit}",
                "pushes/s",
                rate(PUSHES, seconds[mine]),
                limit=rate(PUSHES, seconds[limit]),
                ratio=spread,
                bar=None if bar is None else at_least(spread, bar),
                note=f"{len(USERS):,} streams, {BATCH} pushes {'a batch' if mine == 'batches' else 'at once'}",
            )
        )
    timed = _rounds("redis latency", {"driver": latencies_through_driver, "ours": our_latencies})
    for percent in (50, 99):
        cuts = {
            name: [statistics.quantiles(values, n=100)[percent - 1] * 1e6 for values in results]
            for name, results in timed.items()
        }
        spread = Spread.of([theirs / mine for theirs, mine in zip(cuts["driver"], cuts["ours"], strict=True)])
        rows.append(
            Row(
                f"redis wake, p{percent}",
                "us",
                statistics.median(cuts["ours"]),
                limit=statistics.median(cuts["driver"]),
                ratio=spread,
                bar=Bar(">= 0.67", spread.median >= 1 / 1.5),
                note=f"push to yield, {PUSHES_PER_SECOND:,} pushes/s to {len(USERS):,} streams",
            )
        )
    return rows + redis_scale.measure()
