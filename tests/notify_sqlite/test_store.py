"""What is special about the SQLite store: group commit, retention, keys, the file's schema, and what it refuses."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from notify import (
    BackendUnavailableError,
    ClosedError,
    Event,
    InvalidEventError,
    InvalidEventIdError,
    Notifier,
    NotifyError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
    ids,
)
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore, _opening
from notify_sqlite import _record as record
from notify_sqlite._append import append
from notify_sqlite._connection import MAX_ROWS
from notify_sqlite._schema import statements
from notify_sqlite._worker import Worker, connect
from tests.parts import until
from tests.servers.sqlite import content, files, locked, opened, write

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def closed(store: SQLiteStore) -> Iterator[None]:
    """Let a store count as closed, though nothing of it is."""
    guard = store._database._guard
    allowed = guard._allowed
    guard.close()
    yield
    guard._allowed = allowed


def rows(path: Path, table: str = "events", prefix: str = "notify_") -> int:
    """Count the rows of a table."""
    with opened(path) as file:
        return int(file.execute(f"SELECT count(*) FROM {prefix}{table}").fetchone()[0])


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory"])
def test_only_a_file_is_a_path(path: str) -> None:
    """A path that names no file raises UsageError in the constructor."""
    with pytest.raises(UsageError, match="must name a file"):
        SQLiteStore(path)


@pytest.mark.parametrize("prefix", ["", "1x", "Upper", "a-b", "a;drop", 'a"', "x" * 32, "é"])
def test_a_table_prefix_is_a_plain_name(prefix: str) -> None:
    """A prefix outside [a-z][a-z0-9_]{0,30} raises UsageError, so that no foreign text gets into a statement."""
    with pytest.raises(UsageError, match="table_prefix"):
        SQLiteStore("x.db", table_prefix=prefix)


@pytest.mark.parametrize(
    "options",
    [
        {"max_len": 0},
        {"max_age": 0.0},
        {"key_window": -1.0},
        {"timeout": 0.0},
        {"synchronous": "OFF"},
        {"poll_interval": 0.0},
        {"max_age": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """An option that cannot work raises UsageError in the constructor."""
    with pytest.raises(UsageError, match=next(iter(options))):
        SQLiteStreamStore("x.db", **options)


def test_constructing_touches_nothing(path: Path) -> None:
    """A store, stream store or tracker that is never used makes no file."""
    SQLiteStore(path), SQLiteStreamStore(path), SQLitePresence(path)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused(path: Path) -> None:
    """On trio every use raises UsageError, because the driver knows asyncio only."""
    store = SQLiteStore(path)
    with pytest.raises(UsageError, match="asyncio"):
        await store.save(Event("alice", "t"))
    with pytest.raises(UsageError, match="asyncio"):
        await store.head("alice")
    await store.aclose()


async def test_what_cannot_be_stored_is_refused(path: Path) -> None:
    """User ids that no event can have, and positions that are none, raise a usage error instead of being looked up."""
    async with SQLiteStore(path) as store:
        for user in ("", "a\0b", "\ud800", "x" * 256):
            with pytest.raises(InvalidEventError):
                await store.read(user, "0", 1)
            with pytest.raises(InvalidEventError):
                await store.head(user)
        with pytest.raises(InvalidEventIdError):
            await store.read("alice", "1;DROP TABLE notify_events", 1)


@pytest.mark.parametrize("part", ["store", "presence"])
def test_statements_take_their_parameters_in_order(part: str) -> None:
    """No statement numbers its parameters: early releases of Python 3.12 warn of that, which fails where tests do."""
    assert not [name for name, sql in statements(part, "notify_").items() if re.search(r"[?:@$]\w", sql)]


# -- group commit ------------------------------------------------------------------------------------------------


async def test_concurrent_saves_share_commits(path: Path) -> None:
    """Saves that come while a transaction is under way are stored by the next one, all of them together."""
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
        seen: list[int] = []
        job = store._saver._job
        store._saver._job = lambda drafts, sent: seen.append(len(drafts)) or job(drafts, sent)  # type: ignore[func-returns-value, method-assign]
        async with anyio.create_task_group() as tasks:
            for number in range(1200):
                tasks.start_soon(store.save, Event(f"user{number}", "t"))
        assert sum(seen) == 1200
        assert max(seen) <= MAX_ROWS
        assert len(seen) <= 5


async def test_saves_handed_over_in_one_step_share_a_commit(path: Path) -> None:
    """What `save_soon` takes in one step of the event loop is one transaction; outcomes come in the order of calls."""
    outcomes: list[Event | NotifyError] = []
    async with SQLiteStore(path) as store:
        for number in range(300):
            store.save_soon(Event(f"user{number % 7}", "t", number), outcomes.append)
        await until(lambda: outcomes)
        assert [outcome.payload for outcome in outcomes if isinstance(outcome, Event)] == [*range(300)]
        assert rows(path) == 300
    with pytest.raises(ClosedError):
        store.save_soon(Event("alice", "t"), outcomes.append)
    assert len(outcomes) == 300


async def test_the_notifier_makes_no_batches_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single pushes go straight into the group commit; `save_many` is for `push_many` alone."""
    async with SQLiteStreamStore(path) as store, Notifier(store) as notifier:
        monkeypatch.setattr(store._saver, "save", None)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(notifier.push, "alice", "t", number)
        assert len((await store.read("alice", "0", 100)).events) == 20


async def test_each_push_waits_for_the_lock_from_its_own_call(path: Path) -> None:
    """While the lock is held elsewhere, a push is rejected `timeout` after its call, and no later one with it."""
    outcomes: dict[str, Event | NotifyError] = {}
    async with SQLiteStore(path, timeout=1.0) as store:
        await store.head("alice")

        def save(name: str) -> None:
            store.save_soon(Event("alice", "t", name), partial(outcomes.__setitem__, name))

        with locked(path) as file:
            save("under way")
            await until(lambda: store._saver.is_busy and not store._saver._queue)
            save("queued")
            await anyio.sleep(0.7)
            save("later")
            await until(lambda: len(outcomes) == 2)
            assert isinstance(outcomes["under way"], OverloadedError)
            assert isinstance(outcomes["queued"], OverloadedError)
            file.execute("ROLLBACK")
        await until(lambda: len(outcomes) == 3)
        assert [event.payload for event in (await store.read("alice", "0", 9)).events] == ["later"]


async def test_nothing_to_save(path: Path) -> None:
    """Saving no events returns no outcomes, and begins no transaction."""
    async with SQLiteStore(path) as store:
        assert await store.save_many([]) == []
        assert not store._saver.is_busy


async def test_a_large_batch_is_several_transactions(path: Path) -> None:
    """A save_many of 1,201 events writes at most 500 to a transaction, and keeps their order."""
    async with SQLiteStore(path, max_len=5000) as store:
        stored = await store.save_many([Event("alice", "t", number) for number in range(1201)])
        page = await store.read("alice", "0", 5000)
        assert [*stored] == page.events
        assert [event.payload for event in page.events] == [*range(1201)]


async def test_an_event_that_comes_while_a_page_is_read_is_on_it(path: Path) -> None:
    """A read that finds nothing, and then that the log has gone on, returns the event and no gap."""
    async with SQLiteStore(path) as store:
        first = await store.save(Event("alice", "t"))
        with opened(path) as file, opened(path) as other:

            def interfere(statement: str) -> None:
                if "EXISTS" in statement:
                    file.set_trace_callback(None)
                    draft = Event("alice", "t")
                    other.execute("BEGIN IMMEDIATE")
                    saved.extend(append(other, store._sql, [draft], store._limits()))
                    other.execute("COMMIT")

            saved: list[Event] = []
            file.set_trace_callback(interfere)
            page = record.page(file, store._sql, "alice", first.id, 10, 0)
        assert (page.events, page.gap, page.position) == (saved, None, saved[0].id)


async def test_ids_grow_over_the_whole_file(path: Path) -> None:
    """An id is greater than every one given out before, to whichever user and by whichever store."""
    async with SQLiteStore(path) as one, SQLiteStore(path) as other:
        last = "0"
        for number in range(50):
            event = await (one, other)[number % 2].save(Event(f"user{number % 7}", "t"))
            assert ids.compare(last, event.id) < 0
            last = event.id


async def test_a_cancelled_save_that_waits_is_not_stored(path: Path) -> None:
    """A save that is cancelled while others are being stored leaves the queue and is not stored later."""
    async with SQLiteStore(path) as store:
        with locked(path) as file:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.save, Event("alice", "t", "under way"))
                await until(lambda: store._saver.is_busy and not store._saver._queue)
                with anyio.move_on_after(0.05):
                    await store.save(Event("alice", "t", "waiting"))
                assert not store._saver._queue
                file.execute("ROLLBACK")
        await store.save(Event("alice", "t", "later"))
        assert [event.payload for event in (await store.read("alice", "0", 9)).events] == ["under way", "later"]


async def test_a_first_save_that_is_cancelled_while_the_file_is_opened(path: Path) -> None:
    """Where all that waits for the file to be opened is cancelled, no transaction begins, and the next one does."""
    async with aclosing(SQLiteStore(path)) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.save, Event("alice", "t", "first"))
            await checkpoint()
            assert store._saver.is_busy
            tasks.cancel_scope.cancel()
        await until(lambda: not store._saver.is_busy)
        assert await store.head("alice") == "0"
        assert (await store.save(Event("alice", "t", "later"))).prev == "0"


async def test_a_cancelled_save_that_is_under_way_is_stored(path: Path) -> None:
    """A save that is cancelled after its transaction began abandons the wait alone."""
    async with SQLiteStore(path) as store:
        with locked(path) as file:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.save, Event("alice", "t", "under way"))
                await until(lambda: store._saver.is_busy and not store._saver._queue)
                tasks.cancel_scope.cancel()
            file.execute("ROLLBACK")
        await store.save(Event("alice", "t", "later"))
        assert [event.payload for event in (await store.read("alice", "0", 9)).events] == ["under way", "later"]


async def test_cancelled_savers_leave_no_transaction_open(path: Path) -> None:
    """Two thousand savers cancelled at any moment leave no lock, no task, and a log that is one chain."""
    async with SQLiteStore(path, max_len=5000) as store:
        await store.head("alice")
        for _ in range(20):
            with anyio.move_on_after(0.004):
                async with anyio.create_task_group() as tasks:
                    for number in range(100):
                        tasks.start_soon(store.save, Event("alice", "t", number))
        await until(lambda: not store._saver.is_busy)
        with locked(path):
            pass
        assert not store._database.jobs.running
        previous = "0"
        for event in (await store.read("alice", "0", 5000)).events:
            assert event.prev == previous
            previous = event.id


async def test_closing_does_not_wait_for_a_lock_for_ever(path: Path) -> None:
    """A save that waits for somebody's lock ends with an error when the store closes, within the lock timeout."""
    store = SQLiteStore(path, timeout=0.3)
    await store.prepare()
    outcomes: list[NotifyError] = []

    async def save(number: int) -> None:
        with pytest.raises((PushRejectedError, ClosedError)) as caught:
            await store.save(Event("alice", "t", number))
        outcomes.append(caught.value)

    with locked(path):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(save, number)
            await until(lambda: store._saver.is_busy)
            with anyio.fail_after(5):
                await store.aclose()
    assert len(outcomes) == 3
    assert rows(path) == 0


async def test_closing_a_store_that_never_opened_ends_everything(path: Path) -> None:
    """Thousands of saves that wait for a file that is locked, and a store that closes: each has an outcome, soon."""
    async with SQLiteStore(path):
        pass
    store = SQLiteStreamStore(path, table_prefix="other_", timeout=0.3)
    outcomes: list[object] = []
    with locked(path):
        for number in range(8000):
            store.save_soon(Event("alice", "t", number), outcomes.append)
        store.send_ephemeral(Event("alice", "t").stored("", ""))
        with anyio.fail_after(8):
            await store.aclose()
    assert len(outcomes) == 8000
    assert {type(outcome) for outcome in outcomes} <= {OverloadedError, PushRejectedError, ClosedError}
    assert ClosedError in map(type, outcomes)


def test_a_thread_whose_event_loop_is_gone_says_nothing(path: Path) -> None:
    """A job that ends after its event loop was closed reports to no loop; its thread is left, without a traceback."""
    over, order = threading.Event(), list[str]()

    async def main() -> None:
        worker = Worker(await connect(str(path), create=True))
        serving.append(asyncio.ensure_future(worker.serve()))
        waiting.append(asyncio.ensure_future(worker.run(lambda db: over.wait() and order.append("job"))))
        await asyncio.sleep(0.05)

    serving: list[object] = []
    waiting: list[object] = []
    asyncio.run(main())
    over.set()
    while not order:
        threading.Event().wait(0.001)
    threading.Event().wait(0.1)
    assert order == ["job"]


async def test_closing_leaves_a_hanging_thread_behind(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the disk does not answer, closing takes seconds: what was under way is uncertain, the rest untried."""
    before = set(threading.enumerate())
    store = SQLiteStore(path, timeout=0.1)
    await store.prepare()
    answer = threading.Event()
    outcomes: list[object] = []

    async def save() -> None:
        with pytest.raises((PushUncertainError, ClosedError)) as caught:
            await store.save(Event("alice", "t"))
        outcomes.append(caught.type)

    try:
        async with anyio.create_task_group() as tasks:
            store._database.services.start(store._database.maintain, lambda db: answer.wait())
            await checkpoint()
            tasks.start_soon(save)
            await until(lambda: store._saver.is_busy and not store._saver._queue)
            tasks.start_soon(save)
            await until(lambda: store._saver._queue)
            with anyio.fail_after(15):
                await store.aclose()
        assert outcomes == [PushUncertainError, ClosedError]
        assert "did not answer" in caplog.text
    finally:
        answer.set()
    await until(lambda: set(threading.enumerate()) <= before)


# -- retention and keys ------------------------------------------------------------------------------------------


async def test_the_oldest_go_a_sixteenth_at_once(path: Path) -> None:
    """A log holds at least max_len events and at most a sixteenth more, whatever is pushed."""
    async with SQLiteStore(path, max_len=32) as store:
        for number in range(100):
            await store.save(Event("alice", "t", number))
            page = await store.read("alice", "0", 1000)
            assert min(number + 1, 32) <= len(page.events) <= 34
            assert page.events[-1].payload == number
    assert rows(path) <= 34


async def test_a_lowered_bound_is_reached_little_by_little(path: Path) -> None:
    """A store opened with a smaller max_len removes at most 500 events in each transaction."""
    async with SQLiteStore(path, max_len=2000) as store:
        await store.save_many([Event("alice", "t") for _ in range(1300)])
    async with SQLiteStore(path, max_len=10) as store:
        for left in (801, 302, 10):
            await store.save(Event("alice", "t"))
            assert rows(path) == left


async def test_the_old_are_swept(path: Path) -> None:
    """Events and keys over their age leave the file in small transactions; heads and young events stay."""
    async with SQLiteStore(path, max_age=60, key_window=90, max_len=2000, clock=(clock := Clock())) as store:
        await store.save_many([Event(f"user{n % 7}", "t", key=f"k{n}") for n in range(1100)])
        clock.now += 61
        young = await store.save(Event("user0", "t", key="young"))
        assert await store._sweeper.sweep() == 1100
        assert (rows(path), rows(path, "keys"), rows(path, "heads")) == (1, 1101, 7)
        clock.now += 31
        assert await store._sweeper.sweep() == 1100
        assert (rows(path), rows(path, "keys")) == (1, 1)
        assert (await store.read("user0", "0", 10)).events == [young]
        assert await store.head("user1") != "0"
        assert await store._sweeper.sweep() == 0


async def test_what_was_swept_counts_no_more(path: Path) -> None:
    """After events left by age or trim, the bound counts those that are left."""
    async with SQLiteStore(path, max_len=10) as store:
        for number in range(10):
            last = await store.save(Event("alice", "t", number))
        assert await store.trim(last.id) == 9
        for number in range(9):
            await store.save(Event("alice", "t", number))
        assert rows(path) == 10


async def test_the_sweeper_runs_by_itself_and_survives_failures(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was written to sweeps now and then, also after a sweep that failed."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.005)
    async with SQLiteStore(path, max_age=60, timeout=0.05, clock=(clock := Clock())) as store:
        await store.save(Event("alice", "t"))
        with locked(path):
            clock.now += 61
            await until(lambda: "cannot remove old events" in caplog.text)
        await until(lambda: "are removed again" in caplog.text)
        assert not rows(path)


async def test_the_sweeper_of_a_closed_store_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweeper that finds its store closed ends without a word."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.005)
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
        running = store._database.services.running
        with closed(store):
            await until(lambda: store._database.services.running < running)


async def test_a_trim_is_many_small_transactions(path: Path) -> None:
    """Trimming 5,000 events lets others write in between: no transaction removes more than 500."""
    async with SQLiteStore(path, max_len=6000) as store, SQLiteStore(path) as other:
        events = await store.save_many([Event(f"user{n % 9}", "t") for n in range(5000)])
        assert all(isinstance(event, Event) for event in events)
        counts: list[int] = []
        write = store._database.write

        async def counting(job: Any) -> Any:
            counts.append(await write(job))
            await other.save(Event("bob", "t", len(counts)))
            return counts[-1]

        store._database.write = counting  # type: ignore[method-assign]
        assert await store.trim("9999999999999-0") >= 5000
        assert max(counts) <= MAX_ROWS
        assert len(counts) > 10


async def test_a_trim_that_fails_says_so(path: Path) -> None:
    """Trimming while somebody holds the lock raises BackendUnavailableError with the cause, and can be repeated."""
    async with SQLiteStore(path, timeout=0.05) as store:
        await store.save(Event("alice", "t"))
        with locked(path), pytest.raises(BackendUnavailableError) as caught:
            await store.trim("9999999999999-0")
        assert caught.value.backend == "SQLiteStore"
        assert await store.trim("9999999999999-0") == 1


async def test_a_key_outlives_its_event(path: Path) -> None:
    """Repeating a key whose event was trimmed stores nothing and returns the id that the first one had."""
    async with SQLiteStore(path) as store:
        before = await store.save(Event("alice", "t"))
        first = await store.save(Event("alice", "t", 1, key="k"))
        await store.trim("9999999999999-0")
        again = await store.save(Event("alice", "t", 1, key="k"))
        assert (again.id, again.prev, again.payload) == (first.id, before.id, 1)
        assert rows(path) == 0


async def test_a_key_counts_within_its_window(path: Path) -> None:
    """After the window the same key stores a new event, and that one counts from then on."""
    async with SQLiteStore(path, key_window=60, clock=(clock := Clock())) as store:
        first = await store.save(Event("alice", "t", 1, key="k"))
        clock.now += 59
        assert await store.save(Event("alice", "t", 2, key="k")) == first
        clock.now += 2
        second = await store.save(Event("alice", "t", 3, key="k"))
        assert (second.payload, second.prev) == (3, first.id)
        assert await store.save(Event("alice", "t", 4, key="k")) == second


async def test_without_an_age_everything_stays(path: Path) -> None:
    """With max_age=None, events as old as the log are read, and no sweep removes them."""
    async with SQLiteStore(path, max_age=None, clock=(clock := Clock())) as store:
        event = await store.save(Event("alice", "t"))
        clock.now += 10 * 365 * 86_400
        assert await store._sweeper.sweep() == 0
        assert (await store.read("alice", "0", 10)).events == [event]


# -- the file ----------------------------------------------------------------------------------------------------


async def test_prefixes_are_worlds_of_their_own(path: Path) -> None:
    """Two stores with different prefixes share a file and nothing else."""
    async with SQLiteStore(path) as one, SQLiteStore(path, table_prefix="other_") as other:
        first, second = await one.save(Event("alice", "t", 1)), await other.save(Event("alice", "t", 2))
        assert (first.prev, second.prev) == ("0", "0")
        assert (await one.read("alice", "0", 10)).events == [first]
        assert (await other.read("alice", "0", 10)).events == [second]


async def test_an_application_keeps_its_own_tables(path: Path) -> None:
    """A file that holds other tables, of another journal mode, is used beside them."""
    with opened(path) as file:
        file.execute("CREATE TABLE mine (x)")
        file.execute("INSERT INTO mine VALUES (7)")
    async with SQLiteStore(path) as store, SQLitePresence(path) as presence:
        await store.save(Event("alice", "t"))
        await presence.register("alice")
    with opened(path) as file:
        assert file.execute("SELECT x FROM mine").fetchall() == [(7,)]


async def test_a_newer_schema_is_refused(path: Path) -> None:
    """A file that a later version of the library made is neither read nor written, and the error says why."""
    async with SQLiteStore(path) as old:
        await old.save(Event("alice", "t"))
    with opened(path) as file:
        file.execute("UPDATE notify_schema SET version = 2")
    async with SQLiteStore(path.with_name("other.db")):
        pass
    store = SQLiteStore(path)
    with pytest.raises(PushRejectedError, match=r"version 2.* upgrade"):
        await store.save(Event("alice", "t"))
    with pytest.raises(BackendUnavailableError, match=r"version 2.* upgrade"):
        await store.head("alice")
    await store.aclose()
    with opened(path) as file:
        assert file.execute("SELECT count(*) FROM notify_events").fetchone() == (1,)


async def test_tables_that_cannot_be_made(path: Path) -> None:
    """Where something else has the name of a table, nothing is half made, and the error says what it is."""
    with opened(path) as file:
        file.execute("CREATE TABLE mine (x)")
        file.execute("CREATE INDEX notify_heads ON mine (x)")
    store = SQLiteStore(path)
    with pytest.raises(PushRejectedError, match="notify_heads"):
        await store.save(Event("alice", "t"))
    await store.aclose()
    with opened(path) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",), ("notify_heads",)]


async def test_a_reading_connection_that_cannot_be_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the second connection fails, none is left behind, and the next call opens it."""

    def fail(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("out of handles")

    store = SQLiteStore(path)
    await store.prepare()
    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(_opening, "_configure", fail)
        with pytest.raises(BackendUnavailableError, match="cannot be read: out of handles"):
            await store.head("alice")
        await until(lambda: before.issuperset(threading.enumerate()))
    event = await store.save(Event("alice", "t"))
    assert await store.head("alice") == event.id
    await store.aclose()


def test_without_a_wal_nothing_is_opened(path: Path) -> None:
    """A database that cannot have a write-ahead log is refused: what is promised rests on it."""
    store = SQLiteStore(path)
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(sqlite3.OperationalError, match="memory"):
        store._database.file._prepare_writer(db)


async def test_what_is_no_database_is_refused(path: Path) -> None:
    """A file of another kind is not touched; the error carries the driver's as its cause."""
    before = b"not a database, but long enough to have a header" * 100
    write(path, before)
    store = SQLiteStore(path)
    with pytest.raises(PushRejectedError) as rejected:
        await store.save(Event("alice", "t"))
    with pytest.raises(BackendUnavailableError) as unavailable:
        await store.read("alice", "0", 1)
    assert isinstance(rejected.value.__cause__, sqlite3.DatabaseError)
    assert isinstance(unavailable.value.__cause__, sqlite3.DatabaseError)
    assert rejected.value.backend == unavailable.value.backend == "SQLiteStore"
    await store.aclose()
    assert content(path) == before


async def test_a_store_that_could_not_open_opens_later(tmp_path: Path) -> None:
    """A missing directory is an error of each call, not of the store: once it is there, everything works."""
    store = SQLiteStore(tmp_path / "later" / "notify.db")
    with pytest.raises(PushRejectedError):
        await store.save(Event("alice", "t"))
    with pytest.raises(BackendUnavailableError):
        async with store:
            raise AssertionError("not reached")
    (tmp_path / "later").mkdir()
    await store.save(Event("alice", "t"))
    await store.aclose()


async def test_a_damaged_file_is_an_error(path: Path) -> None:
    """Pages of garbage raise BackendUnavailableError with the driver's error as its cause, never that error itself."""
    async with SQLiteStore(path, max_len=5000) as store:
        await store.save_many([Event("alice", "t", "x" * 200) for _ in range(2000)])
    whole = content(path)
    write(path, whole[: 20 * 4096] + os.urandom(100 * 4096) + whole[120 * 4096 :])
    async with SQLiteStore(path) as store:
        with pytest.raises(BackendUnavailableError) as caught:
            await store.read("alice", "0", 5000)
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


async def test_first_use_by_many_at_once(path: Path) -> None:
    """Ten stores that meet at a new file all open it and make one chain."""
    stores = [SQLiteStore(path) for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for store in stores:
            tasks.start_soon(store.save, Event("alice", "t"))
    page = await stores[0].read("alice", "0", 100)
    assert len(page.events) == 10
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("name", ["a b.db", "a?mode=ro.db", "a#b.db", "a%20b.db", "\u00fc.db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Characters that mean something in a URI are part of the file's name."""
    async with SQLiteStreamStore(tmp_path / name) as store, store.subscribe("alice", "0") as stream:
        event = await store.save(Event("alice", "t"))
        assert await stream.next(5) == event
        await until(lambda: store.is_receiving)
    assert sorted(path.name for path in files(tmp_path)) == [name, f"{name}-checkpointer"]


async def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path counts from the directory in which the store was made."""
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("notify.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with store:
        await store.save(Event("alice", "t"))
    await checkpoint()
    assert (tmp_path / "notify.db").exists()


async def test_the_settings_are_those_promised(path: Path) -> None:
    """The writer is in WAL mode with full synchronisation unless told otherwise; the reader cannot write."""

    def settings(db: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "query_only", "mmap_size")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    async with SQLiteStore(path) as full, SQLiteStore(path, synchronous="NORMAL") as normal:
        assert await full._database.maintain(settings) == ["wal", 2, 0, 0]
        assert await normal._database.maintain(settings) == ["wal", 1, 0, 0]
        assert (await full._database.read(settings, []))[2] == 1


async def test_a_connection_that_nobody_waits_for_is_closed(tmp_path: Path) -> None:
    """A task that is cancelled while it opens a connection, at whichever step, leaves no open file and no thread."""
    file = tmp_path / "notify.db"
    threads = threading.active_count()

    for steps in range(40):
        task = asyncio.ensure_future(connect(str(file), create=True))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task.result().close()
            await until(lambda: threading.active_count() <= threads)
        assert threading.active_count() <= threads
    gc.collect()
    assert not open_files(file)


def open_files(file: Path) -> list[str]:
    """What this process has open of a database file."""
    found = (os.path.realpath(each) for each in Path("/proc/self/fd").iterdir())
    return [name for name in found if name.startswith(str(file))]
