"""An inbox on each backend, next to what the same backend does without one.

Reading: the counts and the first page of an inbox of 10,000 items, next to one indexed read through the same store (one
event, and as many events as the page has items). Writing: `send` next to `push`, and `push` to users with an inbox next
to `push` on a store that has never had one. Marking: everything read, 1,000 items at once. Topics: the counts of a user
of 99 topics, without news and with news in each; and a publication while 1,000 of its 100,000 followers are connected,
next to streams of the core that read the same logs. Sizes: what an item takes beyond the event in the log.

Writes in memory wait for nothing, so they are timed by the processor time of this process. Nothing that is timed pays
for the garbage of what was timed before it.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

import anyio

from notify import Notifier, Stream
from notify.inbox import Inbox, InboxRetention
from notify.inbox.abc import InboxStore
from notify_memory import MemoryStore

from .harness import ROUNDS, Bar, Row, Spread, at_least, cpu_seconds, progress, rate, ratio, run
from .inbox_stores import PATIENCE, Open, every_store

ITEMS = 10_000
PAGE = 20
READS = 100
WRITERS = 64
WRITES = {"memory": 20_000, "sqlite": 2_000, "redis": 4_000, "postgres": 2_000}
MARKED = 1000
TOPICS = 99
SIZED = 4000
FOLLOWERS = 100_000
CONNECTED = 1000
PUBLISHED = 10

_RETENTION = InboxRetention(max_items=2 * ITEMS)
_PAYLOAD = {"title": "A comment on your post", "post": 7, "by": "bob", "text": "x" * 100}


async def _fill(call: Callable[[int], Awaitable[object]], numbers: Iterable[int]) -> None:
    """Make these calls, `WRITERS` at a time."""
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await call(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITERS):
            tasks.create_task(work())


async def _seconds(call: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that one call takes, with no garbage of what came before it."""
    gc.collect()
    started = clock()
    await call()
    return clock() - started


async def _median(call: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds that one call takes, the median of `READS` one after the other."""
    seconds = []
    for _ in range(READS):
        started = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# -- reading -----------------------------------------------------------------------------------------------------------


async def reads(open_store: Open) -> dict[str, list[float]]:
    """Return the seconds of each kind of read, and of marks, round by round."""
    async with (
        open_store() as (store, _),
        Notifier(store, timeout=2 * PATIENCE) as notifier,
        Inbox(notifier, retention=_RETENTION) as inbox,
    ):
        await _fill(lambda _: inbox.send("alice", "comment.created", _PAYLOAD), range(ITEMS))
        log = await store.read("alice", "0", PAGE)
        before = "0" if len(log.events) < 2 else log.events[0].id
        assert len((await store.read("alice", before, PAGE)).events) == PAGE
        await _follow_topics(inbox)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "one": lambda: store.read("alice", before, 1),
            "many": lambda: store.read("alice", before, PAGE),
            "counts": lambda: inbox.counts("alice"),
            "page": lambda: inbox.list("alice", limit=PAGE),
            "quiet": lambda: inbox.counts("carol"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*calls, "news", "marked")}
        for number in range(ROUNDS):
            for name, call in calls.items():
                seconds[name].append(await _median(call))
            seconds["news"].append(await _news(inbox))
            seconds["marked"].append(await _mark(inbox, f"reader-{number}"))
        assert (await inbox.counts("alice")).unread == ITEMS
        return seconds


async def _follow_topics(inbox: Inbox) -> None:
    for number in range(TOPICS):
        await inbox.follow("carol", f"topic:{number}")


async def _news(inbox: Inbox) -> float:
    """Return the seconds of the first counts after each topic has got an item."""
    total = (await inbox.counts("carol")).total
    await _fill(lambda number: inbox.publish(f"topic:{number}", "news", _PAYLOAD), range(TOPICS))
    seconds = await _seconds(lambda: inbox.counts("carol"))
    assert (await inbox.counts("carol")).total == total + TOPICS
    return seconds


async def _mark(inbox: Inbox, user: str) -> float:
    """Return the seconds in which `MARKED` unread items of a user become read."""
    await _fill(lambda _: inbox.send(user, "comment.created", _PAYLOAD), range(MARKED))
    page = await inbox.list(user)
    seconds = await _seconds(lambda: inbox.mark_read_up_to(user, page.position))
    assert (await inbox.counts(user)).unread == 0
    return seconds


# -- writing -----------------------------------------------------------------------------------------------------------


async def writes(open_store: Open, work: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of each kind of write, round by round: many tasks, each with users of its own."""
    async with AsyncExitStack() as stack:
        bare, _ = await stack.enter_async_context(open_store())
        used, _ = await stack.enter_async_context(open_store())
        without = await stack.enter_async_context(Notifier(bare, timeout=2 * PATIENCE))
        notifier = await stack.enter_async_context(Notifier(used, timeout=2 * PATIENCE))
        inbox = Inbox(notifier, retention=_RETENTION)
        users = [f"user-{number}" for number in range(WRITERS)]
        await _fill(
            lambda number: inbox.send(users[number % WRITERS], "comment.created", _PAYLOAD), range(10 * WRITERS)
        )
        await _fill(lambda number: without.push(users[number % WRITERS], "comment.created"), range(10 * WRITERS))
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "push": lambda number: without.push(users[number % WRITERS], "comment.created", _PAYLOAD),
            "push beside": lambda number: notifier.push(users[number % WRITERS], "comment.created", _PAYLOAD),
            "send": lambda number: inbox.send(users[number % WRITERS], "comment.created", _PAYLOAD),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(ROUNDS):
            for name in sorted(calls, reverse=bool(number % 2)):
                seconds[name].append(await _seconds(lambda name=name: _fill(calls[name], range(work)), clock))
        return seconds


async def sizes(open_store: Open) -> tuple[float, float]:
    """Return the bytes of an event in the log, and those that an item takes beyond them."""

    async def grown(write: Callable[[Notifier, str], Awaitable[object]]) -> float:
        async with open_store() as (store, size), Notifier(store, timeout=2 * PATIENCE) as notifier:
            await notifier.push("warm", "comment.created", _PAYLOAD)
            before = await size()
            await _fill(lambda number: write(notifier, f"user-{number % 10}"), range(SIZED))
            return (await size() - before) / SIZED

    pushed = await grown(lambda notifier, user: notifier.push(user, "comment.created", _PAYLOAD))
    listed = await grown(lambda notifier, user: Inbox(notifier).send(user, "comment.created", _PAYLOAD))
    return pushed, listed - pushed


# -- topics ------------------------------------------------------------------------------------------------------------


async def _drain(streams: list[Stream], publish: Callable[[], Awaitable[object]]) -> float:
    """Return the processor seconds from the publications until each open stream has yielded all of them."""
    async with anyio.create_task_group() as readers:

        async def read(stream: Stream) -> None:
            for _ in range(PUBLISHED):
                await stream.next(timeout=PATIENCE)

        for stream in streams:
            readers.start_soon(read, stream)
        await anyio.sleep(0.05)  # until they wait: those that do not only make the figure worse
        started = cpu_seconds()
        for _ in range(PUBLISHED):
            await publish()
    return cpu_seconds() - started


async def topic() -> dict[str, list[float]]:
    """Return the seconds of deliveries to followers and to streams of the core, round by round."""
    store: InboxStore = MemoryStore()
    seconds: dict[str, list[float]] = {"streams": [], "followers": []}
    async with Notifier(store, timeout=2 * PATIENCE) as notifier, Inbox(notifier) as inbox:
        users = [f"user-{number}" for number in range(FOLLOWERS)]
        for user in users:
            await inbox.follow(user, "news")
        connected = users[:: FOLLOWERS // CONNECTED]
        for number in range(ROUNDS):
            plain = [notifier.subscribe([user, f"room-{number}"]) for user in connected]
            followers = [inbox.subscribe(user) for user in connected]
            for name, streams, log in (("streams", plain, f"room-{number}"), ("followers", followers, "news")):
                async with AsyncExitStack() as stack:
                    for stream in streams:
                        await stack.enter_async_context(stream)
                    before = notifier.statistics().pushes["stored"]
                    seconds[name].append(await _drain(list(streams), lambda log=log: inbox.publish(log, "n", _PAYLOAD)))
                    assert notifier.statistics().pushes["stored"] - before == PUBLISHED  # one write each
    return seconds


# -- the table ---------------------------------------------------------------------------------------------------------


def _micros(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e6


def _read_row(name: str, limit: list[float], ours: list[float], times: float | None, note: str) -> Row:
    """A row whose ratio says how many times as long as the limit ours took: less is better here."""
    spread = ratio(ours, limit)
    bar = None if times is None else Bar(f"<= {times:.1f} x", spread.median <= times)
    return Row(name, "us", _micros(ours), limit=_micros(limit), ratio=spread, bar=bar, note=note)


def _reading_rows(name: str, seconds: dict[str, list[float]]) -> list[Row]:
    marked = Spread.of([1e3 * each for each in seconds["marked"]])
    news = 4.0 if name in {"sqlite", "postgres"} else None  # on Redis one pipeline, which tests count
    return [
        _read_row(f"{name}: counts / one read", seconds["one"], seconds["counts"], 2.0, f"{ITEMS:,} items"),
        _read_row(f"{name}: first page / read of {PAGE}", seconds["many"], seconds["page"], 2.0, f"{ITEMS:,} items"),
        _read_row(f"{name}: counts, {TOPICS} topics / one read", seconds["one"], seconds["quiet"], news, "nothing new"),
        _read_row(f"{name}: counts, news in {TOPICS} / one read", seconds["one"], seconds["news"], None, "copies them"),
        Row(
            f"{name}: read up to, {MARKED:,} items",
            "us",
            1e3 * marked.median,
            bar=Bar("< 10,000", marked.median < 10),
            note=f"{marked.median:.1f} ms [{marked.low:.1f}..{marked.high:.1f}]",
        ),
    ]


def _writing_rows(name: str, work: int, seconds: dict[str, list[float]]) -> list[Row]:
    sent = ratio(seconds["push"], seconds["send"])
    beside = ratio(seconds["push"], seconds["push beside"])
    limit, note = rate(work, seconds["push"]), f"{WRITERS} tasks; limit: push without an inbox"
    bar = Bar(">= 0.75", sent.median >= 0.75)
    return [
        Row(f"{name}: send / push", "1/s", rate(work, seconds["send"]), limit=limit, ratio=sent, bar=bar, note=note),
        Row(
            f"{name}: push with inbox / push",
            "1/s",
            rate(work, seconds["push beside"]),
            limit=limit,
            ratio=beside,
            bar=at_least(beside, 0.9),
            note="to users that have one",
        ),
    ]


def _size_row(name: str, open_store: Open) -> Row:
    if name == "memory":
        tracemalloc.start()
    pushed, item = run(lambda: sizes(open_store))
    tracemalloc.stop()
    gc.collect()
    return Row(f"{name}: size of an item / event in the log", "bytes", item, limit=pushed, note="beyond the event")


def measure() -> list[Row]:
    """Run the benchmark."""
    rows = []
    with every_store() as stores:
        for name, open_store in stores.items():
            progress(f"inbox, {name}: reads")
            rows += _reading_rows(name, run(lambda open_store=open_store: reads(open_store)))
            progress(f"inbox, {name}: writes")
            work = WRITES[name]
            clock = cpu_seconds if name == "memory" else time.perf_counter
            seconds = run(lambda open_store=open_store, work=work, clock=clock: writes(open_store, work, clock))
            rows += _writing_rows(name, work, seconds)
            progress(f"inbox, {name}: sizes")
            rows.append(_size_row(name, open_store))
    progress("inbox: a topic")
    seconds = run(topic)
    spread = ratio(seconds["streams"], seconds["followers"])
    deliveries = CONNECTED * PUBLISHED
    rows.append(
        Row(
            "topic: followers / streams of the core",
            "deliveries/s",
            rate(deliveries, seconds["followers"]),
            limit=rate(deliveries, seconds["streams"]),
            ratio=spread,
            bar=at_least(spread, 0.9),
            note=f"one write each; {CONNECTED:,} of {FOLLOWERS:,} followers connected",
        )
    )
    return rows
