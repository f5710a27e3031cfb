"""The PostgreSQL backend next to its driver, on a private server with `fsync` and `synchronous_commit` on.

Pushing: many tasks that push to one user each while a stream of each user reads, next to the least code that does the
same: a hundred events to one statement that counts up the users' rows and inserts, two statements under way, a NOTIFY
for each, and a reader that listens, reads after the keys it had and hands the rows to the waiting tasks. Pushing to
many: one call, next to the same statements; beside both a task stores one event at a time. Reading: a stream from the
start of a log, next to the driver reading pages by key. Arriving: a push at a thousand a second until another process
yields it, next to an insert, a NOTIFY and the SELECT of a process that received it, one at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from notify import Event, Notifier
from notify_pg import PostgresStore, PostgresStreamStore
from tests.servers.postgres import AS_DEPLOYED, fresh_schema, running

from .harness import ROUNDS, Bar, Row, at_least, progress, rate, ratio, run

WRITERS = 1000
PUSHES = 10_000
BATCH = 100
USERS = 10_000
EVENTS = 20_000
READINGS = 5
PAGE = 500
PACED = 3000
PER_SECOND = 1000
BARE = 300

_DATA = b'{"post":7}'
_TABLES = """
CREATE TABLE raw_heads (user_id text PRIMARY KEY, last_id bigint, prev_id bigint) WITH (fillfactor = 50);
CREATE TABLE raw_events (user_id text, id bigint, prev bigint, micros bigint, type text, data bytea,
    topic text, key text, meta text, PRIMARY KEY (user_id, id));
"""
_INSERT = """
WITH d AS (SELECT * FROM unnest($1::text[], $2::bytea[]) AS d (user_id, data)),
h AS (
    INSERT INTO raw_heads AS h SELECT user_id, (date_part('epoch', clock_timestamp()) * 1000)::bigint << 20, 0 FROM d
    ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE SET prev_id = h.last_id, last_id = greatest(h.last_id + 1, excluded.last_id)
    RETURNING h.user_id, h.last_id, h.prev_id
)
INSERT INTO raw_events
SELECT d.user_id, h.last_id, h.prev_id, 7, 'comment.created', d.data, NULL, NULL, NULL FROM d JOIN h USING (user_id)
RETURNING user_id, id, prev
"""
_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('raw', $1)"
_SELECT = "SELECT * FROM raw_events WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3"
_SELECT_MANY = f"""
SELECT e.* FROM unnest($1::text[], $2::bigint[]) AS u (user_id, after) CROSS JOIN LATERAL (
    SELECT * FROM raw_events v WHERE v.user_id = u.user_id AND v.id > u.after ORDER BY v.id LIMIT {PAGE}
) e
"""


@asynccontextmanager
async def raw(dsn: str) -> AsyncIterator[list[asyncpg.Connection]]:
    """Connections of the driver alone, on new tables: two insert, one each notifies, listens and reads, one more."""
    connections = [await asyncpg.connect(dsn) for _ in range(6)]
    await connections[0].execute(f"DROP TABLE IF EXISTS raw_heads, raw_events; {_TABLES}")
    for connection in connections:
        await connection.fetch(_INSERT, ["warm"], [_DATA])
    yield connections
    for connection in connections:
        await connection.close()


@asynccontextmanager
async def notifier(dsn: str) -> AsyncIterator[Notifier]:
    """A notifier with its defaults, on new tables; its connections are open."""
    async with PostgresStreamStore(dsn, schema=fresh_schema(), max_len=EVENTS) as store, Notifier(store) as one:
        await one.push_many([f"warm-{number}" for number in range(WRITERS)], "comment.created", {"post": 7})
        yield one


@asynccontextmanager
async def beside(push: Callable[[], Awaitable[object]]) -> AsyncIterator[list[int]]:
    """Push one event after the other until cancelled; the list gets as many entries as were stored."""
    stored: list[int] = []

    async def go_on() -> None:
        while True:
            await push()
            stored.append(1)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(go_on())
        yield stored
        task.cancel()


async def insert_batches(
    writers: list[asyncpg.Connection], notifier: asyncpg.Connection, work: int, users: int
) -> None:
    """A hundred events to a statement, two statements under way, and a NOTIFY after each."""
    batches = iter(range(0, work, BATCH))
    notifying = asyncio.Lock()

    async def write(connection: asyncpg.Connection) -> None:
        for start in batches:
            names = [f"user-{number % users}" for number in range(start, start + BATCH)]
            rows = await connection.fetch(_INSERT, names, [_DATA] * BATCH)
            assert len(rows) == BATCH
            async with notifying:
                await notifier.fetch(_NOTIFY, " ".join(names)[:7900])

    async with asyncio.TaskGroup() as tasks:
        for connection in writers:
            tasks.create_task(write(connection))


async def raw_pushes(dsn: str) -> float:
    """Batches, and a reader that listens, reads after the keys it had, and hands each row to its waiting task."""
    async with raw(dsn) as (*writers, notifier, listener, reader, _):
        last = {f"user-{number}": 0 for number in range(WRITERS)}
        inboxes: dict[str, asyncio.Queue[asyncpg.Record]] = {user: asyncio.Queue() for user in last}
        notified: set[str] = set()
        news = asyncio.Event()

        def on_notification(*arguments: object) -> None:
            notified.update(str(arguments[3]).split(" "))
            news.set()

        async def take(inbox: asyncio.Queue[asyncpg.Record]) -> None:
            for _ in range(PUSHES // WRITERS):
                await inbox.get()

        async def read() -> None:
            left = PUSHES
            while left:
                await news.wait()
                news.clear()
                users = [*notified]
                notified.clear()
                for row in await reader.fetch(_SELECT_MANY, users, [last[user] for user in users]):
                    last[row["user_id"]] = row["id"]
                    inboxes[row["user_id"]].put_nowait(row)
                    left -= 1

        await listener.add_listener("raw", on_notification)
        async with asyncio.TaskGroup() as tasks:
            for inbox in inboxes.values():
                tasks.create_task(take(inbox))
            tasks.create_task(read())
            await asyncio.sleep(0)
            started = time.perf_counter()
            await insert_batches(writers, notifier, PUSHES, WRITERS)
        return time.perf_counter() - started


async def pushes(dsn: str) -> float:
    """A thousand tasks that push, one after the other, and a stream of each user that reads what they push."""
    async with notifier(dsn) as one:
        opened: list[int] = []

        async def push(writer: int) -> None:
            for _ in range(PUSHES // WRITERS):
                await one.push(f"user-{writer}", "comment.created", {"post": 7})

        async def read(user: int) -> None:
            async with one.subscribe(f"user-{user}") as stream:
                opened.append(user)
                for _ in range(PUSHES // WRITERS):
                    await stream.next()

        async with asyncio.TaskGroup() as tasks:
            for user in range(WRITERS):
                tasks.create_task(read(user))
            await receiving(one, opened)
            started = time.perf_counter()
            for writer in range(WRITERS):
                tasks.create_task(push(writer))
        return time.perf_counter() - started


async def receiving(one: Notifier, opened: list[int]) -> None:
    """Wait until all streams are open and wake messages are received."""
    store = one._store
    assert isinstance(store, PostgresStreamStore)
    while not store.is_receiving or store.live._catch_up.is_busy or len(opened) < WRITERS:  # noqa: ASYNC110 - only the store knows
        await asyncio.sleep(0.01)


async def raw_many(dsn: str) -> float:
    """Batches, while another connection inserts one event at a time."""
    async with raw(dsn) as (*writers, notifier, _, _, single):
        async with beside(partial(single.fetch, _INSERT, ["warm"], [_DATA])):
            started = time.perf_counter()
            await insert_batches(writers, notifier, USERS, USERS)
            return time.perf_counter() - started


async def push_many(dsn: str) -> tuple[float, int]:
    """One push to ten thousand users, and how many single pushes were stored during it."""
    async with notifier(dsn) as one:
        users = [f"user-{number}" for number in range(USERS)]
        async with beside(partial(one.push, "warm", "comment.created", {"post": 7})) as others:
            started = time.perf_counter()
            report = await one.push_many(users, "comment.created", {"post": 7})
            assert len(report.events) == USERS
            return time.perf_counter() - started, len(others)


async def raw_pages(dsn: str) -> float:
    """Every row of a log, page by page, from an async generator."""
    async with raw(dsn) as (connection, *_):
        rows = [
            ("alice", number, number - 1, 7, "comment.created", _DATA, *[None] * 3) for number in range(1, EVENTS + 1)
        ]
        await connection.copy_records_to_table("raw_events", records=rows)
        await connection.execute("VACUUM ANALYZE raw_events")

        async def pages() -> AsyncIterator[asyncpg.Record]:
            last = 0
            while page := await connection.fetch(_SELECT, "alice", last, PAGE):
                for row in page:
                    yield row
                last = page[-1]["id"]

        async def read() -> None:
            left = EVENTS
            async for row in pages():
                left -= 1
                assert row["data"]
            assert not left

        return await shortest(read)


async def replay(dsn: str) -> float:
    """Every event of a log, from a stream."""
    async with notifier(dsn) as one:
        store = one._store
        assert isinstance(store, PostgresStreamStore)
        for _ in range(EVENTS // PAGE):
            await store.save_many([Event("alice", "comment.created", {"post": 7})] * PAGE)
        await store._db.fetch(f"VACUUM ANALYZE {store._names.table('events')}")

        async def read() -> None:
            left = EVENTS
            async for _ in one.subscribe("alice", "0"):
                left -= 1
                if not left:
                    break

        return await shortest(read)


async def shortest(read: Callable[[], Awaitable[None]]) -> float:
    """Return how long the fastest of several readings takes: by then the connection is open and the statement known."""
    seconds = []
    for _ in range(READINGS):
        started = time.perf_counter()
        await read()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# -- arriving, in another process --------------------------------------------------------------------------------------


async def bare_reader(dsn: str) -> None:
    """Receive a user's name, read the new events, and print how long the event was on its way."""
    reader, listener = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    received: asyncio.Queue[str] = asyncio.Queue()
    await listener.add_listener("raw", lambda *arguments: received.put_nowait(arguments[3]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    last, waits = 0, []
    while len(waits) < BARE:
        for row in await reader.fetch(_SELECT, await received.get(), last, PAGE):
            last = row["id"]
            waits.append(time.monotonic() - json.loads(row["data"]))
    sys.stdout.write(f"{statistics.median(waits)} {sorted(waits)[int(len(waits) * 0.99)]}\n")


async def our_reader(dsn: str, schema: str) -> None:
    """Subscribe to every user and print how long events were on their way."""
    waits: list[float] = []
    opened: list[int] = []
    async with PostgresStreamStore(dsn, schema=schema) as store, Notifier(store) as one:

        async def read(number: int) -> None:
            async with one.subscribe(f"user-{number}") as stream:
                opened.append(number)
                async for event in stream:
                    waits.append(time.monotonic() - event.payload)  # noqa: PERF401 - it never ends

        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read(number)) for number in range(WRITERS)]
            while not store.is_receiving or len(opened) < WRITERS:  # noqa: ASYNC110 - only the store knows
                await asyncio.sleep(0.01)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while len(waits) < PACED:  # noqa: ASYNC110 - an event for each wait would be measured too
                await asyncio.sleep(0.05)
            for reader in readers:
                reader.cancel()
    sys.stdout.write(f"{statistics.median(waits)} {sorted(waits)[int(len(waits) * 0.99)]}\n")


async def bare_writer(dsn: str) -> None:
    """One event at a time: insert, NOTIFY, and only then the next."""
    async with raw(dsn) as (writer, _, notifier, *_):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        for _ in range(BARE):
            await writer.fetch(_INSERT, ["alice"], [json.dumps(time.monotonic()).encode()])
            await notifier.fetch(_NOTIFY, "alice")
            await asyncio.sleep(0.002)


async def our_writer(dsn: str, schema: str) -> None:
    """A thousand pushes a second, each by a task of its own."""
    async with PostgresStore(dsn, schema=schema) as store, Notifier(store) as one, asyncio.TaskGroup() as tasks:
        await one.push("warm", "n")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        began = time.monotonic()
        for number in range(PACED):
            await asyncio.sleep(began + number / PER_SECOND - time.monotonic())
            tasks.create_task(one.push(f"user-{number % WRITERS}", "n", time.monotonic()))


def arrivals(dsn: str, kind: str) -> tuple[float, float]:
    """Run a writer and a reader, each in a process of its own, and return median and 99th percentile in seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.postgres", dsn, fresh_schema()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ}
    with subprocess.Popen([*command, f"{kind}_writer"], **pipes) as writer:  # type: ignore[call-overload]
        assert writer.stdout.readline() == "ready\n"
        with subprocess.Popen([*command, f"{kind}_reader"], **pipes) as reader:  # type: ignore[call-overload]
            assert reader.stdout.readline() == "ready\n"
            writer.stdin.write("\n")
            writer.stdin.flush()
            median, late = map(float, reader.stdout.readline().split())
    return median, late


def measure() -> list[Row]:
    """Run the benchmark."""
    with running(AS_DEPLOYED) as server:
        return _measure(server.dsn)


def _measure(dsn: str) -> list[Row]:
    jobs: dict[str, Callable[[], Awaitable[float]]] = {
        "raw pushes": partial(raw_pushes, dsn),
        "pushes": partial(pushes, dsn),
        "raw many": partial(raw_many, dsn),
        "raw pages": partial(raw_pages, dsn),
        "replay": partial(replay, dsn),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*jobs, "many"]}
    beside: list[float] = []
    bare: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    for number in range(1, ROUNDS + 1):
        progress(f"postgres: round {number} of {ROUNDS}")
        for name, job in jobs.items():
            seconds[name].append(run(job))
        took, others = run(partial(push_many, dsn))
        seconds["many"].append(took)
        beside.append(others / took)
        bare.append(arrivals(dsn, "bare"))
        ours.append(arrivals(dsn, "our"))
    beside_it = f"{USERS:,} users; {statistics.median(beside):.0f} other pushes/s one by one beside it"
    rows = []
    for name, unit, work, limit, mine, bar, note in [
        (
            "postgres push / batches",
            "pushes/s",
            PUSHES,
            "raw pushes",
            "pushes",
            0.6,
            f"{WRITERS:,} tasks, as many streams",
        ),
        ("postgres push_many / batches", "users/s", USERS, "raw many", "many", 0.7, beside_it),
        (
            "postgres replay / pages",
            "events/s",
            EVENTS,
            "raw pages",
            "replay",
            0.5,
            f"{EVENTS:,} events of one user; shortest of {READINGS}",
        ),
    ]:
        spread = ratio(seconds[limit], seconds[mine])
        figures = {"ours": rate(work, seconds[mine]), "limit": rate(work, seconds[limit])}
        rows.append(Row(name, unit, **figures, ratio=spread, bar=at_least(spread, bar), note=note))
    rows.append(
        Row(
            "postgres pushes beside push_many",
            "pushes/s",
            statistics.median(beside),
            bar=Bar("> 50 /s", min(beside) > 50),
            note="one after the other, while the 10,000 are stored",
        )
    )
    spread = ratio([median for median, _ in bare], [median for median, _ in ours])
    rows.append(
        Row(
            "postgres push to yield / bare",
            "us, p50",
            statistics.median(median for median, _ in ours) * 1e6,
            limit=statistics.median(median for median, _ in bare) * 1e6,
            ratio=spread,
            bar=Bar("<= 3 x", spread.median >= 1 / 3),
            note=f"{PER_SECOND:,}/s to another process; p99 {statistics.median(p for _, p in ours) * 1e3:.1f} ms, "
            f"bare {statistics.median(p for _, p in bare) * 1e3:.1f} ms",
        )
    )
    return rows


if __name__ == "__main__":
    _, _dsn, _schema, _job = sys.argv
    if _job.startswith("bare"):
        asyncio.run({"bare_reader": bare_reader, "bare_writer": bare_writer}[_job](_dsn))
    else:
        asyncio.run({"our_reader": our_reader, "our_writer": our_writer}[_job](_dsn, _schema))
