"""Erasing a user: one call to the dispatcher or its notifier leaves nothing in any store, on every kind of store."""

from __future__ import annotations

import gc
import re
import signal
import sqlite3
import sys
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, KeysView, Sequence, ValuesView
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest

from notify import BackendUnavailableError, ClosedError, Notifier, UsageError
from notify.dispatch import Digest, Dispatcher, Endpoint, FrequencyCap, NotificationType, Recipient, State
from notify.dispatch.channels import InAppChannel
from notify.inbox import Inbox
from notify.testing.dispatch import RecordingChannel, VirtualClock
from notify_memory import MemoryDispatchStore, MemoryStore, MemoryStreamStore
from notify_pg import PostgresDispatchStore, PostgresStreamStore
from notify_redis import RedisCaps, RedisStreamStore
from notify_sqlite import SQLiteDispatchStore, SQLiteStreamStore
from tests.cli.commands import called
from tests.parts import until
from tests.servers.postgres import Server as Postgres
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server as Redis
from tests.servers.redis import single, traces

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

USER = "mallory"
OTHER = "bob"
STATES = [each.name.lower() for each in State]
TYPES = [
    NotificationType("note", channels=["in_app", "email", "web_push"]),
    NotificationType("offer", channels=["email"], category="marketing", opt_in="offers", caps=[FrequencyCap(5, "day")]),
    NotificationType("news", channels=["email"], digest=Digest(window=3600)),
]


@dataclass
class Place:
    """Stores of one kind, and what finds a user in them."""

    log: Any
    store: Any
    caps: Any
    find: Any
    another: Any = None

    async def named(self, user: str) -> list[str]:
        """Return where the user is still named."""
        return [*await self.find(user)]

    def dispatcher(self, notifier: Notifier, clock: VirtualClock) -> Dispatcher:
        """Return a dispatcher over a notifier."""
        inbox = Inbox(notifier)
        return Dispatcher(
            inbox,
            self.store,
            TYPES,
            {
                "in_app": InAppChannel(inbox),
                "email": RecordingChannel(has_endpoints=False),
                "web_push": RecordingChannel(),
            },
            recipients=lambda ids: [Recipient(each) for each in ids],
            caps=self.caps,
            events=notifier,
            clock=clock.now,
        )


def holds(value: object, user: str) -> bool:
    """Return whether a value of a table names a user."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return re.search(rf"\b{user}\b", text) is not None


def reachable(root: object, seen: set[int]) -> Iterator[str | bytes]:
    """Yield every text that a memory store holds, however deep."""
    if id(root) in seen:
        return
    seen.add(id(root))
    if isinstance(root, str | bytes):
        yield root
    elif isinstance(root, dict):
        for each in [*root.keys(), *root.values()]:
            yield from reachable(each, seen)
    elif isinstance(root, list | tuple | set | frozenset | deque | KeysView | ValuesView):
        for each in root:
            yield from reachable(each, seen)
    if type(root).__module__.startswith("notify"):
        slots = [name for kind in type(root).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in [*getattr(root, "__dict__", {}), *slots]:
            yield from reachable(getattr(root, name, None), seen)


def in_file(file: Path, user: str) -> list[str]:
    """Return the tables of a file that name a user."""
    with closing(sqlite3.connect(file)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            name for name in names for row in db.execute(f"SELECT * FROM {name}") if any(holds(x, user) for x in row)
        ]


async def in_schema(dsn: str, schema: str, user: str) -> list[str]:
    """Return the tables of a schema that name a user."""
    connection = await asyncpg.connect(dsn)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
        found = []
        for (name,) in names:
            rows = await connection.fetch(f'SELECT * FROM "{schema}"."{name}"')
            found += [name for row in rows if any(holds(value, user) for value in row)]
        return found
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with single() as server:
        yield server


@asynccontextmanager
async def opened(
    kind: str, folder: Path, postgres: Postgres, redis: Redis, clock: VirtualClock
) -> AsyncIterator[Place]:
    """Open the stores of a kind."""
    async with AsyncExitStack() as stack:
        file, schema, prefix = folder / "notify.db", fresh_schema(), fresh_schema()
        caps = None
        if kind == "memory":
            log: Any = MemoryStreamStore()
            store: Any = MemoryDispatchStore(clock=clock)
            another: Any = None

            async def find(user: str) -> Sequence[str]:
                return [str(text) for part in (log, store) for text in reachable(part, set()) if holds(text, user)]
        elif kind == "postgres":
            log = PostgresStreamStore(postgres.dsn, schema=schema)
            store = PostgresDispatchStore(postgres.dsn, schema=schema)
            another = partial(PostgresStreamStore, postgres.dsn, schema=schema)

            async def find(user: str) -> Sequence[str]:
                return await in_schema(postgres.dsn, schema, user)
        elif kind == "sqlite":
            log, store = SQLiteStreamStore(file), SQLiteDispatchStore(file, clock=clock)
            another = partial(SQLiteStreamStore, file)

            async def find(user: str) -> Sequence[str]:
                return in_file(file, user)
        else:
            log, store = RedisStreamStore(redis.url, prefix=prefix), SQLiteDispatchStore(file, clock=clock)
            another = partial(RedisStreamStore, redis.url, prefix=prefix)
            caps = await stack.enter_async_context(RedisCaps(redis.url, prefix=prefix))

            async def find(user: str) -> Sequence[str]:
                return in_file(file, user) + traces([redis], user, f"{prefix}:*")

        for part in (log, store):
            await stack.enter_async_context(part)
        yield Place(log, store, caps, find, another)


async def fill(place: Place, notifier: Notifier, dispatcher: Dispatcher, user: str) -> None:
    """Store something of a user wherever that is possible."""
    clock = dispatcher._parts.clock
    await notifier.push(user, "t", {"to": user}, key="k")
    await dispatcher.set_preferences(user, {"types": {"note": {"email": True}}, "opt_in": {"offers": True}})
    device = await place.store.register(Endpoint(user, "web_push", f"https://push.example/{user}"), clock())
    gone = await place.store.register(Endpoint(user, "web_push", f"https://push.example/{user}/2"), clock())
    await place.store.retire(gone.id, 0, "gone", clock())
    for name in ("note", "offer", "news"):
        await dispatcher.submit(name, user, {"title": f"for {user}"}, idempotency_key=f"{name} {user}")
    while (await dispatcher.tick()).claimed:
        pass
    await dispatcher.submit("note", user, {"title": "waits"})
    assert device.user == user


@pytest.mark.parametrize("call", ["dispatcher", "notifier"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])
async def test_one_call_erases_everything(
    kind: str, call: str, tmp_path: Path, postgres: Postgres, redis: Redis
) -> None:
    """After it, no table, key or object names the user; another user keeps everything; streams get their gap."""
    clock = VirtualClock()
    async with opened(kind, tmp_path, postgres, redis, clock) as place, Notifier(place.log) as notifier:
        dispatcher = place.dispatcher(notifier, clock)
        for user in (USER, OTHER):
            await fill(place, notifier, dispatcher, user)
        await dispatcher.submit_many("note", [USER, OTHER, "carol"], {"title": "for all"}, idempotency_key="many")
        others = len(await place.named(OTHER))
        assert await place.named(USER)
        deliveries = [each for each in await dispatcher.stuck(STATES) if each.user == USER]
        events = (await place.log.read(USER, "0", 99)).events
        if call == "dispatcher":
            assert await dispatcher.forget(USER) == len(deliveries)
        else:
            assert await notifier.forget(USER) == len(events)
        assert await place.named(USER) == []
        assert len(await place.named(OTHER)) == others
        assert await dispatcher.forget(USER) == 0


async def test_open_streams_of_a_forgotten_user() -> None:
    """They get the gap `expired` by the dispatcher's call too, and what is pushed afterwards follows."""
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe(USER, "0") as stream:
        dispatcher = Place(notifier.store, MemoryDispatchStore(), None, None).dispatcher(notifier, VirtualClock())
        await notifier.push(USER, "before")
        assert (await stream.next(5)).type == "before"
        assert await dispatcher.forget(USER) == 0
        await notifier.push(USER, "again")
        assert (await stream.next(5)).type == "again"
        assert [gap.reason for gap in stream.gaps] == ["expired"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_open_streams_of_other_processes(kind: str, tmp_path: Path, postgres: Postgres, redis: Redis) -> None:
    """They get the gap at once, though what they are sent does not name the user."""
    clock = VirtualClock()
    async with opened(kind, tmp_path, postgres, redis, clock) as place, Notifier(place.log) as notifier:
        async with place.another() as log, Notifier(log, audit_interval=600) as other:
            async with other.subscribe(USER, "0", signals=True) as stream, other.subscribe(OTHER) as bystander:
                await notifier.push(USER, "before")
                while (await stream.next(5)).type != "before":
                    pass
                await until(lambda: getattr(log, "is_receiving", True))
                await place.dispatcher(notifier, clock).forget(USER)
                gap = await stream.next(5)
                assert (gap.type, gap.payload["reason"]) == ("notify.gap", "expired")
                assert await place.named(USER) == []
                await notifier.push(OTHER, "t")
                assert (await bystander.next(5)).type == "t"
                assert bystander.gaps == ()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])
async def test_a_repeat_finishes_what_an_outage_interrupted(
    kind: str, tmp_path: Path, postgres: Postgres, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the log fails after the store of deliveries, the call raises, and the next one erases what is left."""
    clock = VirtualClock()
    async with opened(kind, tmp_path, postgres, redis, clock) as place, Notifier(place.log) as notifier:
        dispatcher = place.dispatcher(notifier, clock)
        await fill(place, notifier, dispatcher, USER)

        async def fail(user: str) -> int:
            raise BackendUnavailableError("away", backend="log")

        with monkeypatch.context() as broken:
            broken.setattr(place.log, "forget", fail)
            with pytest.raises(BackendUnavailableError):
                await dispatcher.forget(USER)
        assert await place.store.preferences([USER]) == {}
        assert (await place.log.read(USER, "0", 99)).events
        assert await dispatcher.forget(USER) == 0
        assert await place.named(USER) == []


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from notify import Notifier
from notify_sqlite import SQLiteDispatchStore, SQLiteStreamStore
from notify.testing.dispatch import VirtualClock
from tests.dispatch.test_forgetting import USER, Place, fill

async def main(file):
    async with SQLiteStreamStore(file) as log, SQLiteDispatchStore(file) as store, Notifier(log) as notifier:
        clock = VirtualClock()
        place = Place(log, store, None, None)
        dispatcher = place.dispatcher(notifier, clock)
        await fill(place, notifier, dispatcher, USER)
        log.forget = lambda user: os.kill(os.getpid(), signal.SIGKILL)
        await notifier.forget(USER)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_repeat_finishes_after_a_crash(tmp_path: Path) -> None:
    """A process that is killed between the two stores: another one's call erases the rest."""
    file, clock = tmp_path / "notify.db", VirtualClock()
    process = await anyio.run_process([sys.executable, "-c", KILLED, str(file)], check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert {*in_file(file, USER)} <= {"notify_events", "notify_heads", "notify_keys", "notify_inbox", "notify_items"}
    assert in_file(file, USER)
    async with SQLiteStreamStore(file) as log, SQLiteDispatchStore(file) as store, Notifier(log) as notifier:
        Place(log, store, None, None).dispatcher(notifier, clock)
        assert await notifier.forget(USER) > 0
    assert in_file(file, USER) == []


async def test_a_log_that_cannot_forget() -> None:
    """It is named before anything is erased, by either call."""

    class Remembering(MemoryStore):
        forget = None  # type: ignore[assignment]

    clock = VirtualClock()
    async with MemoryDispatchStore(clock=clock) as store, Notifier(Remembering()) as notifier:
        place = Place(notifier.store, store, None, None)
        dispatcher = place.dispatcher(notifier, clock)
        await dispatcher.set_preferences(USER, {"all": False})
        for forget in (dispatcher.forget, notifier.forget):
            with pytest.raises(UsageError, match="Remembering cannot forget a user"):
                await forget(USER)
        assert (await dispatcher.preferences(USER)).all is False


async def test_the_logs_of_two_notifiers() -> None:
    """The inbox's and that of the events are both erased; a dispatcher without either erases its own stores."""
    clock = VirtualClock()
    async with (
        MemoryDispatchStore(clock=clock) as store,
        Notifier(MemoryStore()) as one,
        Notifier(MemoryStore()) as two,
    ):
        make: Callable[..., Dispatcher] = partial(
            Dispatcher, store=store, types=TYPES[1:], channels={"email": RecordingChannel()}, recipients=lambda ids: ()
        )
        both = make(Inbox(one), events=two)
        alone = make(None)
        without_store = make(None, events=(ephemeral := Notifier()))
        for forget in (both.forget, two.forget, alone.forget, without_store.forget, ephemeral.forget):
            await one.push(USER, "t")
            await two.push(USER, "t")
            await both.set_preferences(USER, {"all": False})
            await forget(USER)
            assert (await both.preferences(USER)).all is None
            kept = [len((await each.store.read(USER, "0", 9)).events) for each in (one, two)]  # type: ignore[union-attr]
            assert kept == {both.forget: [0, 0], two.forget: [1, 0]}.get(forget, kept)
        await ephemeral.aclose()


@pytest.mark.parametrize("call", ["dispatcher", "notifier"])
async def test_stores_that_are_gone_are_left_out(call: str) -> None:
    """A notifier that outlives dispatchers keeps none of their stores alive, and those it had do not make it fail."""
    clock, gone = VirtualClock(), list[weakref.ref[Any]]()
    async with Notifier(MemoryStore()) as notifier:
        for _ in range(2):
            async with MemoryDispatchStore(clock=clock) as earlier:
                Place(notifier.store, earlier, None, None).dispatcher(notifier, clock)
            gone.append(weakref.ref(earlier))
            del earlier
        gc.collect()
        assert [each() for each in gone] == [None, None]
        async with MemoryDispatchStore(clock=clock) as store:
            dispatcher = Place(notifier.store, store, None, None).dispatcher(notifier, clock)
            await fill(Place(notifier.store, store, None, None), notifier, dispatcher, USER)
            assert await (dispatcher.forget(USER) if call == "dispatcher" else notifier.forget(USER)) > 0
            assert await store.preferences([USER]) == {}
            assert await dispatcher.stuck(STATES) == []


async def test_a_closed_store_that_is_in_use_is_named() -> None:
    """What it holds would not be erased, so the call says so, and the log is still there for the next call."""
    clock = VirtualClock()
    async with MemoryDispatchStore(clock=clock) as store, Notifier(MemoryStore()) as notifier:
        dispatcher = Place(notifier.store, store, None, None).dispatcher(notifier, clock)
        await notifier.push(USER, "t")
        await store.aclose()
        for forget in (dispatcher.forget, notifier.forget):
            with pytest.raises(ClosedError, match="the MemoryDispatchStore is closed"):
                await forget(USER)
        assert len((await notifier.store.read(USER, "0", 9)).events) == 1  # type: ignore[union-attr]


async def test_a_store_that_allows_no_weak_reference() -> None:
    """Users are erased in it too: it is kept for as long as the notifier."""

    class Slotted:
        __slots__ = ("erased",)

        def __init__(self) -> None:
            self.erased: list[str] = []

        async def forget(self, user: str) -> int:
            self.erased.append(user)
            return 1

    store = Slotted()
    async with Notifier(MemoryStore()) as notifier:
        for _ in range(2):
            notifier.extend_forget(store)
        assert await notifier.forget(USER) == 0
    assert store.erased == [USER]


async def test_forgetting_twice_at_the_same_time(tmp_path: Path) -> None:
    """Both calls at once, and those of two dispatchers on one notifier, erase everything once."""
    file, clock = tmp_path / "notify.db", VirtualClock()
    async with (
        SQLiteStreamStore(file) as log,
        SQLiteDispatchStore(file, clock=clock) as store,
        Notifier(log) as notifier,
    ):
        place = Place(log, store, None, None)
        one, two = (place.dispatcher(notifier, clock) for _ in range(2))
        await fill(place, notifier, one, USER)
        total = len(await one.stuck(STATES))
        counts = list[int]()

        async def forget(dispatcher: Dispatcher) -> None:
            counts.append(await dispatcher.forget(USER))

        async with anyio.create_task_group() as tasks:
            for each in (one, two):
                tasks.start_soon(forget, each)
        assert sum(counts) == total
        assert in_file(file, USER) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_the_command_erases_everything_at_its_url(
    kind: str, tmp_path: Path, postgres: Postgres, redis: Redis
) -> None:
    """`notify forget` erases deliveries at the same URL too; options of the log may stand in it."""
    clock = VirtualClock()
    async with opened(kind, tmp_path, postgres, redis, clock) as place, Notifier(place.log) as notifier:
        await fill(place, notifier, place.dispatcher(notifier, clock), USER)
        prefix = str(place.log._names.prefix) if kind == "redis" else ""
        if kind == "redis":
            url, more = redis.url, ["--prefix", prefix]
        elif kind == "sqlite":
            url, more = f"sqlite:///{tmp_path}/notify.db?max_len=50", []
        else:
            url, more = f"{postgres.dsn}?max_len=50", ["--schema", place.store._names.schema]
        events = (await place.log.read(USER, "0", 99)).events
        done = await anyio.to_thread.run_sync(called, tmp_path, "forget", USER, "--yes", "--store", url, *more)
        assert (done.status, done.out, done.err) == (0, f"erased {len(events)}\n", "")
        left = await place.named(USER)
        if kind == "redis":  # the deliveries are in the file, and the counts belong to RedisCaps
            left = [each for each in left if each.startswith(prefix) and not re.search(f":{USER}:[cv]", each)]
        assert left == []
