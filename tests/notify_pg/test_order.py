"""The order of calls: one user's events are stored in the order in which they were handed over, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any

import anyio
import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import BackendUnavailableError, Event, Notifier, NotifyError, PushRejectedError, PushUncertainError
from notify.abc import Page
from notify_pg import PostgresStore
from notify_pg._queue import BATCH, PendingSave, SaveQueue
from notify_pg._save import FEW
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Server, running

pytestmark = pytest.mark.anyio

USERS = 200
TASKS = 256


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose connections are killed and which is restarted; each test leaves it running."""
    with running() as server:
        yield server


class Calls:
    """Calls from many tasks: by `save_soon`, by `save_many`, by `save`; each user's numbered in their order."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.numbers: Counter[str] = Counter()
        self.stored: dict[str, set[int]] = defaultdict(set)
        self.failed: list[NotifyError] = []

    def draft(self, user: str) -> Event:
        self.numbers[user] += 1
        return Event(user, "n", self.numbers[user])

    def note(self, draft: Event, outcome: Event | NotifyError) -> None:
        if isinstance(outcome, Event):
            self.stored[draft.user].add(draft.payload)
        else:
            self.failed.append(outcome)

    async def call(self, users: list[str]) -> None:
        if len(users) > 1:
            drafts = [self.draft(user) for user in users]
            for draft, outcome in zip(drafts, await self.store.save_many(drafts), strict=True):
                self.note(draft, outcome)
            return
        future = asyncio.get_running_loop().create_future()
        draft = self.draft(users[0])
        self.store.save_soon(draft, future.set_result)
        self.note(draft, await future)

    async def run(self, calls: int) -> None:
        left = iter(range(calls))

        async def task() -> None:
            for number in left:
                users = [f"user{random.randrange(USERS)}" for _ in range(1 if number % 50 else random.choice([2, 300]))]
                await self.call(users)

        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(task())

    async def page(self, user: str, position: str) -> Page:
        """Read a page; a connection that was killed at the last moment may fail it once."""
        with suppress(BackendUnavailableError):
            return await self.store.read(user, position, 1000)
        return await self.store.read(user, position, 1000)

    async def assert_in_order(self) -> None:
        """Each log has the calls in their order: all that are known to be stored, and none twice."""
        for user in self.numbers:
            log: list[int] = []
            position = "0"
            while events := (await self.page(user, position)).events:
                log += [event.payload for event in events]
                position = events[-1].id
            assert log == sorted(set(log))
            assert self.stored[user] <= set(log)


async def forever(step: Callable[[], Any], pause: float) -> None:
    while True:
        with suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
            await step()
        await anyio.sleep(pause)


@asynccontextmanager
async def doing(step: Callable[[], Any], pause: float) -> AsyncIterator[None]:
    """Repeat something until the block ends."""
    task = asyncio.ensure_future(forever(step, pause))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def nothing(_control: asyncpg.Connection, _schema: str) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def rollbacks(control: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """One statement in five is the victim of a deadlock or of a serialization failure, as the server reports them."""
    await control.execute(f"""
        CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF random() < 0.1 THEN RAISE 'deadlock' USING ERRCODE = '40P01'; END IF;
            IF random() < 0.1 THEN RAISE 'serialization' USING ERRCODE = '40001'; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER fail AFTER INSERT ON {schema}.notify_heads FOR EACH STATEMENT EXECUTE FUNCTION {schema}.fail();
    """)
    yield
    await control.execute(f"DROP FUNCTION {schema}.fail CASCADE")


@asynccontextmanager
async def killed_connections(control: asyncpg.Connection, _schema: str) -> AsyncIterator[None]:
    """Connections are ended in the middle of batches."""
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL AND random() < 0.5"
    )
    async with doing(partial(control.fetch, kill), 0.05):
        yield


@asynccontextmanager
async def held_logs(control: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """An application's transaction holds a few logs, others in turn."""

    async def hold() -> None:
        async with control.transaction():
            await control.fetch(f"SELECT FROM {schema}.notify_heads ORDER BY random() LIMIT 5 FOR UPDATE SKIP LOCKED")
            await anyio.sleep(0.3)

    async with doing(hold, 0.01):
        yield


@asynccontextmanager
async def few_connections(control: asyncpg.Connection, _schema: str) -> AsyncIterator[None]:
    """The server has room for one or two connections at a time, and closes those that are there now and then."""
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'few' AND random() < 0.3"

    async def change() -> None:
        await control.execute(f"ALTER ROLE few CONNECTION LIMIT {random.choice([1, 2])}")
        await control.fetch(kill)

    async with doing(change, 0.1):
        yield


Trouble = Callable[[asyncpg.Connection, str], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("trouble", [nothing, rollbacks, killed_connections, held_logs, few_connections])
async def test_the_order_of_calls(server: Server, schema: str, trouble: Trouble) -> None:
    """256 tasks that save for 200 users leave each log in the order of the calls, whatever is retried or held back."""
    control = await asyncpg.connect(server.dsn)
    dsn = server.dsn
    if trouble is few_connections:
        await control.execute(f"CREATE ROLE few LOGIN; CREATE SCHEMA {schema}; GRANT ALL ON SCHEMA {schema} TO few")
        dsn = dsn.replace("postgres@", "few@")
    async with PostgresStore(dsn, schema=schema, timeout=20, max_len=20_000) as store:
        await store.save_many([Event(f"user{number}", "n", 0) for number in range(0, USERS, 2)])
        calls = Calls(store)
        async with trouble(control, schema):
            await calls.run(3000)
        assert all(isinstance(error, PushRejectedError | PushUncertainError) for error in calls.failed)
        if trouble is nothing:
            assert not calls.failed
        await calls.assert_in_order()
    if trouble is few_connections:
        await control.execute("DROP OWNED BY few; DROP ROLE few")
    await control.close()


async def test_the_order_of_calls_across_a_restart(server: Server, schema: str) -> None:
    """A server that is killed during the calls and started again leaves what it stored in the order of the calls."""
    async with PostgresStore(server.dsn, schema=schema, timeout=20) as store:
        calls = Calls(store)
        running_calls = asyncio.ensure_future(calls.run(2000))
        await until(lambda: sum(map(len, calls.stored.values())) > 500)
        await anyio.to_thread.run_sync(server.kill)
        await anyio.to_thread.run_sync(server.start)
        await running_calls
        await calls.assert_in_order()


async def test_twenty_thousand_pushes_through_one_notifier(make: Make) -> None:
    """256 tasks that push to 200 users through one notifier leave each log in the order of the calls of push."""
    store = await make(max_len=20_000)
    numbers: Counter[str] = Counter()
    left = iter(range(20_000))
    async with Notifier(store) as notifier:

        async def task() -> None:
            for _ in left:
                user = f"user{random.randrange(USERS)}"
                numbers[user] += 1
                await notifier.push(user, "n", numbers[user])

        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(task())
    for user, count in numbers.items():
        log = [event.payload for event in (await store.read(user, "0", 20_000)).events]
        assert log == [*range(1, count + 1)]


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_save_that_fails_leaves_the_others_in_order(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """An event that the server rejects takes no place, whether its batch was split for it or it was alone."""
    store = await make()
    await store.save(Event("alice", "n", 0))
    await sql.execute(f"ALTER TABLE {schema}.notify_events ADD CHECK (convert_from(data, 'UTF8') !~ '7')")
    saves = [store.save(Event("alice", "n", number)) for number in range(1, 40)]
    outcomes = await asyncio.gather(*saves, return_exceptions=True)
    good = [number for number in range(40) if "7" not in str(number)]
    assert [event.payload for event in (await store.read("alice", "0", 100)).events] == good
    assert sum(isinstance(outcome, PushRejectedError) for outcome in outcomes) == 40 - len(good)


async def test_logs_that_are_free_do_not_wait_for_held_ones(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """However many logs are held, a batch that names one of them delays its other users by a moment only."""
    store = await make()
    held = [f"held{number}" for number in range(6)]
    for user in (*held, "free"):
        await store.save(Event(user, "n"))
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_heads WHERE user_id LIKE 'held%' FOR UPDATE")
        waiting = []
        for user in held:
            waiting.append(asyncio.ensure_future(store.save(Event(user, "n"))))
            with anyio.fail_after(3):
                assert all(
                    isinstance(outcome, Event)
                    for outcome in await asyncio.gather(
                        store.save(Event("free", "n")), store.save(Event(f"new-{user}", "n"))
                    )
                )
        assert not any(save.done() for save in waiting)
    assert all(isinstance(outcome, Event) for outcome in await asyncio.gather(*waiting))


async def test_a_log_that_an_open_transaction_begins(make: Make, sql: asyncpg.Connection) -> None:
    """A log that does not exist yet, and that a transaction is about to begin, holds back no other new log."""
    store = await make()
    await store.save(Event("bob", "n"))
    async with sql.transaction():
        await store.save_in(Event("alice", "n"), sql)
        held = asyncio.ensure_future(store.save(Event("alice", "n")))
        with anyio.fail_after(3):
            await asyncio.gather(*(store.save(Event(user, "n")) for user in ("bob", "carol", "dave")))
        assert not held.done()
    assert (await held).prev != "0"


async def test_locks_that_cannot_be_looked_at(make: Make, sql: asyncpg.Connection, schema: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Where the query for held logs fails, each log waits for itself."""
    store = await make()
    await store.save(Event("alice", "n"))
    monkeypatch.setattr(store._saver, "_unlocked", "SELECT 1 / 0")
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_heads WHERE user_id = 'alice' FOR UPDATE")
        held = asyncio.ensure_future(store.save(Event("alice", "n")))
        with anyio.fail_after(3):
            await store.save(Event("bob", "n"))
        assert not held.done()
    assert (await held).prev != "0"


@pytest.fixture
async def held(make: Make, sql: asyncpg.Connection, schema: str,
               monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresStore]:  # fmt: skip
    """A store whose batches wait for the logs of held0, held1 and held2 as long as the test takes."""
    monkeypatch.setattr("notify_pg._save.LOCK_WAIT", 60.0)
    store = await make(timeout=60.0)
    await store.save_many([Event(f"held{number}", "n") for number in range(3)])
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_heads WHERE user_id LIKE 'held%' FOR UPDATE")
        yield store


async def test_a_push_does_not_wait_behind_a_save_many(held: PostgresStore) -> None:
    """While two large batches are in flight and a third waits, a single save is stored at once."""
    for number in range(3):
        drafts = [Event(user, "n") for user in (f"held{number}", *(f"{number}-{each}" for each in range(FEW)))]
        held._saver.save_many(drafts, lambda _: None)
        await until(partial(in_flight, held, min(number + 1, 2)))
    batches = {*held._saver._taken}
    assert (await held.save(Event("alice", "n"))).id
    assert {*held._saver._taken} == batches


async def test_a_few_slow_saves_leave_room_for_a_batch(held: PostgresStore) -> None:
    """While three of the four possible batches wait for locks, new saves share the fourth, however many they are."""
    for number in range(3):
        held._saver.save_soon(Event(f"held{number}", "n"), lambda _: None)
        await until(partial(in_flight, held, number + 1))
    batches = {*held._saver._taken}
    await asyncio.gather(*(held.save(Event(f"free{number}", "n")) for number in range(5 * FEW)))
    assert {*held._saver._taken} == batches


def in_flight(store: PostgresStore, batches: int) -> bool:
    return len(store._saver._taken) == batches


async def test_closing_ends_saves_that_were_set_aside(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """A log that is found to be held while the store closes is not waited for: its save ends with the store."""
    store = await make()
    await store.save(Event("alice", "n"))
    outcomes: list[object] = []
    saves = [PendingSave(Event("alice", "n"), 0.0, outcomes.append)]
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {schema}.notify_heads WHERE user_id = 'alice' FOR UPDATE")
        store._saver._taken[id(saves)] = saves
        await store._background.aclose(1)
        assert await store._saver._set_locked_aside(saves) == []
        assert not outcomes
        store._saver.close()
    assert [type(outcome) for outcome in outcomes] == [PushUncertainError]


# -- mistakes of our own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["_outcomes", "_set_locked_aside", "_on_stored"])
async def test_a_mistake_in_saving_is_called_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str,
    sql: asyncpg.Connection, schema: str,
) -> None:  # fmt: skip
    """A mistake of this library is reported as one, with its traceback once; the next push to the user works."""
    store = await make()
    await store.save(Event("alice", "n"))
    monkeypatch.setattr("notify._runtime._driver_errors._reported", set())

    def mistaken(*_args: object) -> None:
        raise KeyError(place)

    async with sql.transaction():
        if place == "_set_locked_aside":
            await sql.execute(f"SELECT FROM {schema}.notify_heads WHERE user_id = 'alice' FOR UPDATE")
        with monkeypatch.context() as patch:
            patch.setattr(store._saver, place, mistaken)
            for _ in range(2):
                with pytest.raises(PushUncertainError, match=f"a bug in PostgresStore.*KeyError.*{place}") as caught:
                    await store.save(Event("alice", "n"))
                assert "closed" not in str(caught.value)
    assert len([record for record in caplog.records if "a bug in" in record.getMessage()]) == 1
    assert (await store.save(Event("alice", "n"))).id


async def test_a_mistake_before_anything_is_sent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of this library is not retried, and where nothing was sent the event is certainly not stored."""
    store = await make()
    await store.save(Event("alice", "n"))
    calls = 0

    def mistaken(_moment: float) -> int:
        nonlocal calls
        calls += 1
        raise TypeError("mistaken")

    with monkeypatch.context() as patch:
        patch.setattr(store._db, "server_micros", mistaken)
        with pytest.raises(PushRejectedError, match="is not stored: a bug in PostgresStore"):
            await store.save(Event("alice", "n"))
    assert calls == 1
    with monkeypatch.context() as patch:
        patch.setattr(store._db, "set_clock", mistaken)
        with pytest.raises(PushUncertainError, match="may be stored: a bug in PostgresStore"):
            await store.save(Event("alice", "n"))
    assert len((await store.read("alice", "0", 10)).events) == 2


# -- the queue ---------------------------------------------------------------------------------------------------------


def queued(queue: SaveQueue, user: str, number: int, size: int = 1, *, is_single: bool = True) -> None:
    event = Event(user, "n", data=b'"' + b"x" * size + b'"', key=str(number))
    queue.add(PendingSave(event, 0.0, lambda _: None), is_single=is_single)


def taken(queue: SaveQueue, few: int = 0) -> list[tuple[str, str | None]]:
    return [(save.event.user, save.event.key) for save in (queue.take_few(few) if few else queue.take())]


def test_a_user_in_flight_is_not_taken() -> None:
    """What comes for a user whose saves are in flight waits until they are resolved, behind what waits already."""
    queue = SaveQueue()
    for number in range(BATCH + 2):
        queued(queue, "alice", number)
    queued(queue, "bob", 0)
    assert taken(queue) == [("alice", str(number)) for number in range(BATCH)]
    queued(queue, "alice", BATCH + 2)
    assert taken(queue) == [("bob", "0")]
    assert not queue
    queued(queue, "bob", 1)
    assert taken(queue) == []
    queue.release({"alice"})
    assert taken(queue) == [("alice", str(number)) for number in range(BATCH, BATCH + 3)]
    queue.release({"bob", "alice"})
    assert taken(queue) == [("bob", "1")]
    queue.release({"bob"})
    assert not queue._users


def test_a_batch_is_bounded_in_bytes() -> None:
    """Large events make small batches, of one user too."""
    queue = SaveQueue()
    for number in range(4):
        queued(queue, "alice", number, 400_000)
    queued(queue, "bob", 0)
    assert len(taken(queue)) == 3
    assert taken(queue) == [("bob", "0")]
    assert [save.event.key for save in queue.clear()] == ["3"]
    assert not queue


def test_single_saves_and_those_of_many_take_turns() -> None:
    """A single save is in the next batch however many of a `save_many` wait, and these get half of each batch."""
    queue = SaveQueue()
    for number in range(4 * BATCH):
        queued(queue, f"many-{number}", 0, is_single=False)
    queued(queue, "alice", 0)
    assert ("alice", "0") in taken(queue)[:2]
    for turn in range(2):
        for number in range(2 * BATCH):
            queued(queue, f"single-{turn}-{number}", 0)
        assert Counter(user.partition("-")[0] for user, _ in taken(queue)) == {"single": BATCH / 2, "many": BATCH / 2}


def test_a_few_single_saves_are_taken_by_themselves() -> None:
    """Only if there are few: saves of a `save_many`, and several saves of one user, are left to `take`."""
    queue = SaveQueue()
    queued(queue, "many", 0, is_single=False)
    for user in ("alice", "bob"):
        queued(queue, user, 0)
    assert taken(queue, few=1) == []
    assert taken(queue, few=2) == [("alice", "0"), ("bob", "0")]
    queued(queue, "alice", 1)
    queued(queue, "alice", 2)
    assert taken(queue, few=2) == []
    queue.release({"alice", "bob"})
    assert taken(queue, few=2) == []
    assert sorted(taken(queue)) == [("alice", "1"), ("alice", "2"), ("many", "0")]


STEPS = st.tuples(
    st.sampled_from([*["single"] * 6, *["many"] * 3, *["take"] * 3, "few", *["release"] * 2, "clear"]),
    st.integers(0, 1),
)


@given(st.lists(STEPS, min_size=8, max_size=40))
def test_the_queue_keeps_the_order_of_each_user(steps: list[tuple[str, int]]) -> None:
    """Whatever comes in between, a user's saves leave in their order, none twice, and no two batches share a user."""
    queue = SaveQueue()
    waiting: dict[str, list[str | None]] = defaultdict(list)
    in_flight: list[set[str]] = []

    def take(few: int = 0) -> set[str]:
        batch = taken(queue, few)
        for user, key in batch:
            assert waiting[user].pop(0) == key
        return {user for user, _ in batch}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("notify_pg._queue.BATCH", 2)
        for number, (step, which) in enumerate(steps):
            if step in ("single", "many"):
                queued(queue, f"user-{which}", number, is_single=step == "single")
                waiting[f"user-{which}"].append(str(number))
            elif step in ("take", "few"):
                users = take(few=which + 1 if step == "few" else 0)
                assert users.isdisjoint(set().union(*in_flight))
                in_flight.append(users)
            elif step == "release" and in_flight:
                queue.release(in_flight.pop(which % len(in_flight)))
            elif step == "clear":
                left = groupby(queue.clear(), lambda save: save.event.user)
                assert {user: [save.event.key for save in saves] for user, saves in left} == {
                    user: keys for user, keys in waiting.items() if keys
                }
                waiting.clear()
            busy: set[str] = set().union(*in_flight)
            assert bool(queue) == any(keys for user, keys in waiting.items() if user not in busy)
        for users in in_flight:
            queue.release(users)
        while users := take():
            queue.release(users)
    assert not any(waiting.values())
    assert not queue._users
