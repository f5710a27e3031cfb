"""The SQLite backend next to its driver, on the disk that holds the temporary directory, `synchronous=FULL`.

Pushing: many tasks that push to one user each, next to the driver with a hundred inserts to a transaction, statement
by statement as everybody writes it; and one push at a time, next to one insert with its commit. Reading: a stream from
the start of a log, next to the driver reading it in pages; both wait for nothing, so their processor time is compared,
and of several rounds the best, because what other programs do to the caches only ever adds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiosqlite

from notify import Event, Notifier
from notify_sqlite import SQLiteStreamStore, _changes

from .harness import Bar, Row, at_least, cpu_seconds, progress, rate, ratio, run

ROUNDS = 9
READS = 15
WRITERS = 1000
PUSHES = 10_000
ONES = 500
IN_FLIGHT = 64
BATCH = 100
USERS = 10_000
EVENTS = 20_000
PAGE = 500
FAR = 100
IDLE = 5.0

_DATA = b'{"post":7}'
_TABLE = (
    "CREATE TABLE events (user TEXT, id INTEGER, prev INTEGER, type TEXT, data BLOB, micros INTEGER,"
    " grp TEXT, key TEXT, meta TEXT, PRIMARY KEY (user, id)) WITHOUT ROWID"
)
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT * FROM events WHERE user = ? AND id > ? ORDER BY id LIMIT ?"


def _values(user: str, number: int) -> tuple[object, ...]:
    """Return a row like those of the library, with an id that needed no query."""
    return (user, number, 0, "comment.created", _DATA, number, None, None, None)


@asynccontextmanager
async def raw() -> AsyncIterator[aiosqlite.Connection]:
    """The driver alone, on a new file."""
    with tempfile.TemporaryDirectory() as directory:
        async with aiosqlite.connect(Path(directory) / "raw.db", isolation_level=None) as db:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("PRAGMA synchronous = FULL")
            await db.execute(_TABLE)
            yield db


@asynccontextmanager
async def notifier() -> AsyncIterator[Notifier]:
    """A notifier with its defaults, on a new file."""
    with tempfile.TemporaryDirectory() as directory:
        async with SQLiteStreamStore(Path(directory) / "ours.db", max_len=EVENTS) as store, Notifier(store) as one:
            yield one


async def raw_inserts(work: int = PUSHES) -> float:
    """A hundred inserts to a transaction."""
    async with raw() as db:
        started = time.perf_counter()
        for start in range(0, work, BATCH):
            await db.execute("BEGIN IMMEDIATE")
            for number in range(start, start + BATCH):
                await db.execute(_INSERT, _values(f"user-{number % WRITERS}", number))
            await db.execute("COMMIT")
        return time.perf_counter() - started


async def raw_ones(work: int = ONES) -> float:
    """One insert at a time, each with its commit."""
    async with raw() as db:
        started = time.perf_counter()
        for number in range(work):
            await db.execute(_INSERT, _values(f"user-{number % BATCH}", number))
            await db.commit()
        return time.perf_counter() - started


async def raw_batches(work: int = USERS) -> float:
    """A hundred rows to an `executemany`, which only somebody who has them all at once can use."""
    async with raw() as db:
        started = time.perf_counter()
        for start in range(0, work, BATCH):
            await db.execute("BEGIN IMMEDIATE")
            await db.executemany(_INSERT, [_values(f"user-{n}", n) for n in range(start, start + BATCH)])
            await db.execute("COMMIT")
        return time.perf_counter() - started


async def pushes(writers: int = WRITERS, work: int = PUSHES) -> float:
    """Many tasks that push, each one after the other."""
    async with notifier() as one:

        async def push(writer: int) -> None:
            for _ in range(work // writers):
                await one.push(f"user-{writer}", "comment.created", {"post": 7})

        await one.push("user-0", "comment.created", {"post": 7})
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for writer in range(writers):
                tasks.create_task(push(writer))
        return time.perf_counter() - started


async def pushes_in_flight() -> float:
    """Sixty-four tasks that push as many events as a thousand do."""
    return await pushes(IN_FLIGHT)


async def ones() -> float:
    """One push at a time."""
    return await pushes(1, ONES)


async def push_many() -> float:
    """One push to ten thousand users."""
    async with notifier() as one:
        await one.push("user-0", "comment.created", {"post": 7})
        users = [f"user-{number}" for number in range(USERS)]
        started = time.perf_counter()
        report = await one.push_many(users, "comment.created", {"post": 7})
        seconds = time.perf_counter() - started
        assert len(report.events) == USERS
        return seconds


async def raw_pages() -> float:
    """Every row of a log, page by page, from an async generator."""
    async with raw() as db:
        await db.execute("BEGIN IMMEDIATE")
        await db.executemany(_INSERT, [_values("alice", number) for number in range(1, EVENTS + 1)])
        await db.execute("COMMIT")

        async def rows() -> AsyncIterator[aiosqlite.Row]:
            last = 0
            while page := list(await db.execute_fetchall(_SELECT, ("alice", last, PAGE))):
                for row in page:
                    yield row
                last = page[-1][1]

        started = cpu_seconds()
        left = EVENTS
        async for _ in rows():
            left -= 1
        assert not left
        return cpu_seconds() - started


async def replay() -> float:
    """Every event of a log, from a stream."""
    async with notifier() as one:
        drafts = [Event("alice", "comment.created", {"post": 7}) for _ in range(EVENTS)]
        store = one._store
        assert isinstance(store, SQLiteStreamStore)
        await store.save_many(drafts)
        await store.head("alice")  # opens the reading connection, as the bare driver's is open before it is measured
        started = cpu_seconds()
        left = EVENTS
        async for _ in one.subscribe("alice", "0"):
            left -= 1
            if not left:
                break
        return cpu_seconds() - started


async def _write_far(path: str) -> None:
    """In another process: push when told to, and say when it was acknowledged."""
    async with SQLiteStreamStore(path) as store, Notifier(store) as one:
        for _ in range(FAR):
            await asyncio.to_thread(sys.stdin.readline)
            await one.push("alice", "t", time.monotonic())


def _far_away(path: str) -> subprocess.Popen[bytes]:
    code = f"import asyncio; from tests.benchmarks import sqlite; asyncio.run(sqlite._write_far({path!r}))"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


async def far() -> list[float]:
    """Return the seconds from the moment at which another process pushed until its event was here, sorted."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "ours.db")
        async with SQLiteStreamStore(path) as store, store.subscribe("alice") as stream:
            with _far_away(path) as other:
                assert other.stdin is not None
                seconds = []
                for number in range(FAR):
                    await asyncio.sleep(0.0137 + number % 7 / 1000)  # meets the interval at every phase
                    other.stdin.write(b"\n")
                    other.stdin.flush()
                    event = await stream.next(10)
                    seconds.append(time.monotonic() - event.payload)
                other.stdin.close()
            return sorted(seconds)


async def idle() -> float:
    """Return the share of one processor that a store with an open stream takes while nothing happens."""
    with tempfile.TemporaryDirectory() as directory:
        async with SQLiteStreamStore(Path(directory) / "ours.db") as store, store.subscribe("alice"):
            await store.save(Event("alice", "t"))
            await asyncio.sleep(0.5)
            before, started = sum(os.times()[:2]), time.perf_counter()
            await asyncio.sleep(IDLE)
            return (sum(os.times()[:2]) - before) / (time.perf_counter() - started)


def _rounds(name: str, *jobs: Callable[[], Awaitable[float]], rounds: int = ROUNDS) -> list[list[float]]:
    """Run the jobs in turn, several times; there is no trio for this backend."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for number in range(rounds):
        progress(f"sqlite, {name}: round {number + 1} of {rounds}")
        for job, results in zip(jobs, seconds, strict=True):
            results.append(run(job))
    return seconds


def _row(name: str, unit: str, work: int, limit: list[float], ours: list[float], bar: float | None, note: str) -> Row:
    spread = ratio(limit, ours)
    reached = None if bar is None else at_least(spread, bar)
    return Row(name, unit, rate(work, ours), limit=rate(work, limit), ratio=spread, bar=reached, note=note)


def measure() -> list[Row]:
    """Run the benchmark."""
    inserts, batches, pushed, few, many = _rounds(
        "writing", raw_inserts, raw_batches, pushes, pushes_in_flight, push_many
    )
    raw_single, single = _rounds("one at a time", raw_ones, ones)
    read, replayed = _rounds("reading", raw_pages, replay, rounds=READS)
    least = [[min(read)], [min(replayed)]]
    progress("sqlite, another process")
    told = run(far)
    progress("sqlite, idle")
    share = run(idle)
    progress("sqlite, another process, by polling")
    with polling():
        polled = run(far)
        polling_share = run(idle)
    together = f"{WRITERS:,} tasks at once"
    return [
        _row("sqlite push / inserts", "pushes/s", PUSHES, inserts, pushed, 0.6, f"{together}; 100 inserts to a commit"),
        _row(
            "sqlite 64 in flight / inserts",
            "pushes/s",
            PUSHES,
            inserts,
            few,
            0.4,
            f"{IN_FLIGHT} tasks at once; 100 inserts to a commit",
        ),
        _row(
            "sqlite one push / insert",
            "pushes/s",
            ONES,
            raw_single,
            single,
            1 / 1.3,
            "one at a time; one insert with its commit",
        ),
        _row("sqlite push / executemany", "pushes/s", PUSHES, batches, pushed, None, "beside: all rows in one call"),
        _row(
            "sqlite push_many / executemany",
            "users/s",
            USERS,
            batches,
            many,
            0.7,
            f"{USERS:,} users; 100 rows to a commit",
        ),
        _row(
            "sqlite replay / pages",
            "events/s",
            EVENTS,
            *least,
            0.5,
            f"{EVENTS:,} events, {PAGE} to a page; by processor time, best of {READS}",
        ),
        _far_row("sqlite other process", told, 0.5, 3),
        _far_row("sqlite other process, polling", polled, 0.95, 30),
        _idle_row("sqlite idle", share, 0.002),
        _idle_row("sqlite idle, polling", polling_share, 0.01),
    ]


@contextmanager
def polling() -> Iterator[None]:
    """Do as if the system did not tell of commits."""
    told, _changes.INotify = _changes.INotify, None
    try:
        yield
    finally:
        _changes.INotify = told


def _far_row(name: str, seconds: list[float], part: float, limit: float) -> Row:
    """Return the row of latencies; the bar is for this part of them, in milliseconds."""
    median, judged, late, latest = (seconds[int(FAR * each) - 1] * 1000 for each in (0.5, part, 0.95, 0.99))
    bar = Bar(f"p{part * 100:.0f} <= {limit} ms", judged <= limit)
    return Row(
        name, "us", median * 1000, bar=bar, note=f"p50; p95 {late:.1f} ms, p99 {latest:.1f} ms from push to yield"
    )


def _idle_row(name: str, share: float, limit: float) -> Row:
    bar = Bar(f"< {limit:.1%}", share < limit)
    return Row(name, "CPU ppm", share * 1e6, bar=bar, note=f"{share:.2%} of a processor")
