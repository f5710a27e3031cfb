"""Other processes that are killed, stopped or forked, disks that are full or read-only, files that vanish."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from notify import (
    BackendUnavailableError,
    Event,
    Notifier,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
    ids,
)
from notify.testing import History
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore, _checkpoint, _file, _lock, _opening
from notify_sqlite._errors import NoConnectionError, failed_commit, rejected
from tests.notify_sqlite.children import child, ended, line
from tests.parts import until
from tests.servers.sqlite import content, exists, locked, opened, remove, write

pytestmark = pytest.mark.anyio


async def record(store: SQLiteStreamStore, history: History, after: str, count: int) -> str:
    """Read so many events of alice from a position, recording, and return where that ended."""
    reader = history.reader("alice", start=after)
    async with store.subscribe("alice", after) as stream:
        for _ in range(count):
            event = await stream.next(15)
            reader.event(event, event.payload)
        assert not stream.gaps
    reader.finished()
    return stream.last_id


# -- processes ---------------------------------------------------------------------------------------------------


async def test_a_killed_writer_loses_nothing_accepted(path: Path, tmp_path: Path) -> None:
    """A process killed while it pushes: all that it was told is accepted is there, and readers resume from their id."""
    files: list[Path] = []
    async with SQLiteStreamStore(path, max_len=400_000) as store:
        with History() as history:
            position, read = "0", 0
            for life in range(3):
                files.append(tmp_path / f"life{life}")
                with child("push", path, "alice", 100_000, files[-1], life) as process:
                    for _ in range(100):
                        last = await line(process)
                    position = await record(store, history, position, 50)
                    read += 50
                    process.send_signal(signal.SIGKILL)
                    await ended(process)
            page = await store.read("alice", position, 10_000)
            assert ids.compare(page.position, last) >= 0
            position = await record(store, history, position, len(page.events))
            assert position == await store.head("alice")
            history.dump(tmp_path / "here")
    History.load(tmp_path / "here", killed=files).assert_ok()
    with opened(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_processes_that_push_to_one_user_make_one_chain(path: Path, tmp_path: Path) -> None:
    """Three processes push to one user, in batches, while two others read: no push fails, no reader misses one."""
    files = [tmp_path / name for name in "abc"]
    async with SQLiteStreamStore(path, max_len=200_000) as store:
        with History() as history, ExitStack() as processes:
            await store.head("alice")
            children = [processes.enter_context(child("push", path, "alice", 160, file, file.name)) for file in files]
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(record, store, history, "0", 480)
            assert [(await ended(process))[0] for process in children] == [0, 0, 0]
            history.dump(tmp_path / "here")
    History.load(tmp_path / "here", *files).assert_ok()


async def test_a_push_elsewhere_is_soon_here(path: Path) -> None:
    """A waiting reader has the event of another process within a second, though nothing here is told of it."""
    async with SQLiteStreamStore(path) as store, store.subscribe("alice") as stream:
        with child("save", path) as process:
            id_ = await line(process)
            assert (await stream.next(10)).id == id_
            assert (await ended(process))[0] == 0


async def test_a_stopped_process_that_holds_the_lock(path: Path) -> None:
    """While a process that holds the lock is frozen, pushes are turned away in time and reads go on; then it heals."""
    async with SQLiteStreamStore(path, timeout=0.2) as store, Notifier(store) as notifier:
        first = await notifier.push("alice", "t")
        with child("hold", path) as process:
            assert await line(process) == "held"
            process.send_signal(signal.SIGSTOP)
            with anyio.fail_after(2), pytest.raises(OverloadedError):
                await notifier.push("alice", "t")
            with anyio.fail_after(2), pytest.raises(PushRejectedError):
                await store.save(Event("alice", "t"))
            assert (await store.read("alice", "0", 10)).events == [first]
            process.send_signal(signal.SIGCONT)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_accepted, notifier)
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            assert await line(process) == "free"
            assert await ended(process) == (0, "")
        assert [event.prev for event in (await store.read("alice", "0", 10)).events] == ["0", first.id]


async def until_accepted(notifier: Notifier) -> None:
    """Push with one key until that is accepted."""
    with anyio.fail_after(10):
        while True:
            try:
                await notifier.push("alice", "t", key="k")
            except PushRejectedError:
                continue
            return


async def test_a_lock_that_is_free_in_time_delays_only(path: Path) -> None:
    """A push that meets the lock of another process waits for it, and is stored once it is free."""
    async with SQLiteStore(path) as store:
        with locked(path) as file:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.save, Event("alice", "t"))
                await until(lambda: store._saver.is_busy and not store._saver._queue)
                file.execute("COMMIT")
        assert len((await store.read("alice", "0", 10)).events) == 1


async def test_a_store_nobody_closed_lets_the_process_end(path: Path) -> None:
    """A program that forgets to close everything ends by itself, promptly and without a word."""
    with child("forget", path) as process, anyio.fail_after(10):
        assert await line(process) == "ending"
        assert await ended(process) == (0, "")
    with opened(path) as file:
        assert file.execute("SELECT count(*) FROM notify_events").fetchone()[0] in (1, 2)


async def test_a_fork_is_refused(path: Path) -> None:
    """In a fork of the process that opened them, every call raises UsageError and closing works; the parent goes on."""
    with child("fork", path) as process:
        assert await line(process) == "6"
        assert await line(process) == "went on"
        assert (await ended(process))[0] == 0


async def test_what_belongs_to_another_process_is_refused(path: Path) -> None:
    """A store that another process opened, as a fork finds it, refuses every call; a fork gives up our locks."""
    async with SQLiteStore(path) as store:
        guard = store._database._guard
        allowed, forks = guard._allowed, guard._forks
        guard._forks = -1
        with pytest.raises(UsageError, match="before a fork"):
            await store.save(Event("alice", "t"))
        with pytest.raises(UsageError, match="before a fork"):
            await store.trim("0")
        with anyio.fail_after(20):
            await store.aclose()
        guard._allowed, guard._forks = allowed, forks
        await until(lambda: store._database.checkpointer.elected)
        _lock._release_copies()
        assert not store._database.checkpointer.elected


# -- the poller --------------------------------------------------------------------------------------------------


async def test_a_poller_that_loses_its_connection_is_restarted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the polling connection breaks, another one is opened within a second and nothing is missed."""
    async with SQLiteStreamStore(path) as store, SQLiteStore(path) as other, store.subscribe("alice") as stream:
        for _ in range(3):
            first = await other.save(Event("alice", "t"))
            assert await stream.next(10) == first
            assert store._watcher._connection is not None
            await store._watcher._connection.close()
            second = await other.save(Event("alice", "t"))
            assert await stream.next(10) == second
    assert "does not receive new events" in caplog.text


async def test_a_poller_that_cannot_open_tries_again(path: Path) -> None:
    """A poller that finds no file to open keeps trying; streams that wait get what comes once there is one."""
    missing = path.parent / "missing" / "notify.db"
    async with Notifier(SQLiteStreamStore(missing)) as notifier:
        store = notifier._store
        assert isinstance(store, SQLiteStreamStore)
        tried: list[None] = []
        connect = store._database.connect
        store._database.connect = lambda: tried.append(None) or connect()  # type: ignore[func-returns-value, method-assign]
        with pytest.raises(BackendUnavailableError):
            await notifier.subscribe("alice").next(5)
        await until(lambda: len(tried) > 3)
        assert not store.is_receiving
        missing.parent.mkdir()
        async with notifier.subscribe("alice") as stream, SQLiteStore(missing) as other:
            event = await other.save(Event("alice", "t"))
            assert await stream.next(5) == event
            await until(lambda: store.is_receiving)
    await store.aclose()


async def test_a_poller_ends_with_its_store(path: Path) -> None:
    """Closing the store ends the poller's task, its connection and the connection's thread, and is prompt."""
    before = set(threading.enumerate())
    async with SQLiteStreamStore(path, poll_interval=30) as store, store.subscribe("alice"):
        await until(lambda: store.is_receiving)
        with anyio.fail_after(2):
            await store.aclose()
        assert not store._database.services.running
    await until(lambda: before.issuperset(threading.enumerate()))


def has_seen(store: SQLiteStreamStore, last: int) -> bool:
    """Whether the poller has dealt with everything up to this packed id."""
    return store._watcher._seen >= last


async def test_a_paused_reader_whose_position_is_unknown(path: Path) -> None:
    """News for a reader that must read the log again anyway make it do so, and it misses nothing."""
    async with SQLiteStreamStore(path) as store, SQLiteStore(path) as other, store.subscribe("alice") as stream:
        first = await other.save(Event("alice", "t"))
        assert await stream.next(5) == first
        for _ in range(3):
            store.live.resync("alice")
            event = await other.save(Event("alice", "t"))
            last = ids.pack(event.id)
            await until(partial(has_seen, store, last))
            assert await stream.next(5) == event


async def test_much_news_is_read_by_the_streams_themselves(path: Path) -> None:
    """After another process wrote hundreds of events of one user, and of hundreds of users, readers get each."""
    async with SQLiteStreamStore(path) as store, SQLiteStore(path) as other:
        async with store.subscribe("alice") as stream, store.subscribe("user599") as last:
            first = await other.save(Event("alice", "t"))
            await until(partial(has_seen, store, ids.pack(first.id)))  # it watches
            assert await stream.next(5) == first
            second = await other.save(Event("alice", "t"))
            assert await stream.next(5) == second
            await until(lambda: store.live.positions()["alice"] == second.id)
            await other.save_many([Event(f"user{number}", "t", number) for number in range(600)])
            await other.save_many([Event("alice", "t", number) for number in range(400)])
            with anyio.fail_after(10):
                assert [(await stream.next()).payload for _ in range(400)] == [*range(400)]
                assert (await last.next()).payload == 599


# -- the disk ----------------------------------------------------------------------------------------------------


async def save_for_ever(store: SQLiteStore, accepted: list[Event]) -> None:
    """Save large events until that fails, and note each."""
    while True:
        accepted.append(await store.save(Event("alice", "t", "x" * 10_000)))


async def test_a_full_disk_rejects_and_recovers(path: Path) -> None:
    """While the file cannot grow, pushes are rejected with nothing stored and reads go on; then pushes work again."""

    def limit(db: sqlite3.Connection, pages: int) -> None:
        db.execute(f"PRAGMA max_page_count = {pages:d}").fetchone()

    async with SQLiteStore(path) as store:
        accepted = [await store.save(Event("alice", "t", "first"))]
        await store._database.maintain(lambda db: limit(db, 60))
        with pytest.raises(PushRejectedError, match="full") as caught:
            await save_for_ever(store, accepted)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert not await store._database.maintain(lambda db: db.in_transaction)
        assert (await store.read("alice", "0", 100)).events == accepted
        await store._database.maintain(lambda db: limit(db, 10**6))
        assert (await store.save(Event("alice", "t"))).prev == accepted[-1].id


async def test_a_quota_rejects_and_recovers(path: Path) -> None:
    """Under a limit for file sizes the writes of the log itself fail: rejected, reads go on, and it recovers."""
    with child("fill_up", path) as process:
        assert [await line(process) for _ in range(3)] == ["OperationalError", "True", "True"]
        assert (await ended(process))[0] == 0


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Take away the right to write in a directory and its files; from root, by running as another user."""
    for file in directory.iterdir():
        file.chmod(0o444)
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        for parent in directory.parents:
            mode = stat.S_IMODE(parent.stat().st_mode)
            if mode & 0o011 != 0o011:
                parent.chmod(mode | 0o011)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(0o755)
        for file in directory.iterdir():
            file.chmod(0o644)


async def test_a_read_only_file_rejects_and_is_read(path: Path) -> None:
    """Without rights to write, pushes are rejected and say so, and what is there is read; later pushes work again."""
    async with SQLiteStore(path) as keeper:
        event = await keeper.save(Event("alice", "t"))
        with unwritable(path.parent):
            async with SQLiteStore(path) as store:
                assert (await store.read("alice", "0", 10)).events == [event]
                with pytest.raises(PushRejectedError, match="read-only"):
                    await store.save(Event("alice", "t"))
                assert (await store.read("alice", "0", 10)).events == [event]
        await keeper.save(Event("alice", "t"))
        async with SQLiteStore(path) as store:
            assert (await store.save(Event("alice", "t"))).prev != event.id


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_another_file_at_the_path_is_refused(path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once the file is deleted or replaced, every call fails and says why; the new file is not touched."""
    store = SQLiteStreamStore(path)
    await store.save(Event("alice", "t"))
    stream = store.subscribe("alice", "0")
    assert (await stream.next(5)).id
    remove(path)
    if how == "replaced":
        with opened(path) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("CREATE TABLE mine (x)")
    with pytest.raises(PushRejectedError, match=how):
        await store.save(Event("alice", "t"))
    with pytest.raises(BackendUnavailableError, match=how):
        await store.read("alice", "0", 10)
    with pytest.raises(BackendUnavailableError, match=how):
        await store.trim("0")
    await until(lambda: "does not receive new events" in caplog.text)
    assert exists(path) == (how == "replaced")
    await store.aclose()
    if how == "replaced":
        with opened(path) as file:
            assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


@pytest.mark.parametrize("use", ["read", "subscribe"])
async def test_a_file_that_was_only_read_is_not_created_again(path: Path, use: str) -> None:
    """Once a store has read a file that then goes away, a save is rejected and creates none, until it is back."""
    async with SQLiteStore(path) as writer:
        first = await writer.save(Event("alice", "t"))
    store = SQLiteStreamStore(path)
    async with store.subscribe("alice", "0" if use == "subscribe" else None) as stream:
        assert await store.head("alice") == first.id
        move(path, path.with_name("away"))
        await until(lambda: not store.is_receiving)
        with pytest.raises(PushRejectedError, match="deleted"):
            await store.save(Event("alice", "t"))
        with pytest.raises(BackendUnavailableError, match="deleted"):
            await store.prepare()
        assert not exists(path)
        move(path.with_name("away") / path.name, path.parent)
        await until(lambda: store.is_receiving)
        second = await store.save(Event("alice", "t"))
        assert second.prev == first.id
        assert [await stream.next(5) for _ in range(2 if use == "subscribe" else 1)][-1] == second
    await store.aclose()


def move(path: Path, target: Path) -> None:
    """Move a database, with what stands beside it, into a directory."""
    target.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.name}*"):
        file.rename(target / file.name)


async def test_a_connection_to_another_file_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced just while a connection opens, and then is back: no connection stays at the other."""
    connect = _opening.connect

    async def connect_elsewhere(name: str, **options: Any) -> aiosqlite.Connection:
        move(path, path.with_name("away"))
        with opened(path) as file:
            file.execute("CREATE TABLE mine (x)")
        return await connect(name, **options)

    async with SQLiteStore(path) as store:
        event = await store.save(Event("alice", "t"))
        with opened(path) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the other connection would find it there by name
        with monkeypatch.context() as patch:
            patch.setattr(_opening, "connect", connect_elsewhere)
            with pytest.raises(BackendUnavailableError, match="replaced"):
                await store.head("alice")
        remove(path)
        move(path.with_name("away") / path.name, path.parent)
        assert await store.head("alice") == event.id


async def test_a_power_loss_leaves_a_prefix(path: Path, tmp_path: Path) -> None:
    """Cut the WAL anywhere: the file is sound, the log is a whole prefix, and a reader from after it is told."""
    async with SQLiteStore(path) as store:
        events = [await store.save(Event("alice", "t", number)) for number in range(40)]
        wal, whole = content(f"{path}-wal"), content(path)
    for number, size in enumerate(range(len(wal) // 3, len(wal), len(wal) // 11)):
        copy = tmp_path / f"copy{number}.db"
        write(copy, whole)
        write(f"{copy}-wal", wal[:size])
        async with SQLiteStreamStore(copy) as store:
            left = [*(await store.read("alice", "0", 100)).events]
            assert left == events[: len(left)]
            assert len(left) < 40
            async with store.subscribe("alice", events[-1].id) as stream:
                following = await store.save(Event("alice", "t"))
                assert [await stream.next(5) for _ in range(len(left) + 1)] == [*left, following]
                assert [gap.reason for gap in stream.gaps] == ["rewound"]
            assert ids.compare(events[-1].id, following.id) < 0
        with opened(copy) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_restored_backup_is_noticed(path: Path, tmp_path: Path) -> None:
    """Readers that come back to an older copy of the file are told that it was rewound, then get what is new."""
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t", 1))
        with opened(path) as file, opened(tmp_path / "backup.db") as backup:
            file.backup(backup)
        lost = await store.save(Event("alice", "t", 2))
    async with SQLiteStreamStore(tmp_path / "backup.db") as store, store.subscribe("alice", lost.id) as stream:
        event = await store.save(Event("alice", "t", 3))
        assert [(await stream.next(5)).payload for _ in range(2)] == [1, 3]
        assert stream.last_id == event.id
        assert [gap.reason for gap in stream.gaps] == ["rewound"]


def error(code: int) -> sqlite3.OperationalError:
    """An error of the driver with this code."""
    made = sqlite3.OperationalError("it failed")
    made.sqlite_errorcode = code
    return made


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, PushRejectedError),
        (sqlite3.SQLITE_IOERR_WRITE, PushRejectedError),
        (sqlite3.SQLITE_BUSY, OverloadedError),
        (sqlite3.SQLITE_IOERR_FSYNC, PushUncertainError),
        (sqlite3.SQLITE_IOERR, PushUncertainError),
        (sqlite3.SQLITE_CORRUPT, PushUncertainError),
    ],
)
def test_a_failed_commit_is_uncertain_unless_it_cannot_have_worked(code: int, kind: type[Exception]) -> None:
    """Only where the commit's last page was not written nothing is stored; after a failed flush it is unknown."""
    assert type(failed_commit(error(code), "SQLiteStore", "x.db")) is kind


def test_before_the_commit_everything_is_rejected() -> None:
    """Whatever fails before COMMIT, the transaction is rolled back and nothing is stored."""
    for code in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL):
        assert type(rejected(error(code), "SQLiteStore", "x.db")) is PushRejectedError
    assert type(rejected(NoConnectionError("closed"), "SQLiteStore", "x.db")) is PushRejectedError


async def test_a_transaction_that_was_left_open_is_rolled_back(path: Path) -> None:
    """Should a rollback ever fail, the next push rolls back first instead of failing for ever with the lock held."""
    async with SQLiteStore(path) as store:
        await store._database.maintain(lambda db: db.execute("BEGIN IMMEDIATE"))
        await store.save(Event("alice", "t"))
        with locked(path):
            pass


async def test_a_connection_that_is_closed_rejects(path: Path) -> None:
    """A push over a connection that somebody closed is rejected with the driver's error as its cause."""
    async with SQLiteStore(path) as store:
        assert store._database._writer is not None
        await store._database._writer.close()
        with pytest.raises(PushRejectedError) as caught:
            await store.save(Event("alice", "t"))
        assert isinstance(caught.value.__cause__, NoConnectionError)


async def test_a_commit_that_fails_leaves_no_transaction(path: Path) -> None:
    """A commit that the database itself refuses is rolled back; the next push works."""
    async with SQLiteStore(path) as store:
        await store.head("alice")

        def spoil(db: sqlite3.Connection) -> None:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            db.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

        await store._database.maintain(spoil)
        with pytest.raises(PushRejectedError) as caught:
            await store._database.write(lambda db: db.execute("INSERT INTO child VALUES (7)"))
        assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
        assert not await store._database.maintain(lambda db: db.in_transaction)
        await store.save(Event("alice", "t"))


# -- checkpoints -------------------------------------------------------------------------------------------------


async def test_one_of_all_checkpoints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several stores on a file one checkpoints; when it closes, another one takes over; the rest never does."""
    monkeypatch.setattr(_checkpoint, "INTERVAL", 0.02)

    def pages(db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA wal_autocheckpoint").fetchone()[0])

    stores = [SQLiteStore(path) for _ in range(3)]
    for store in stores:
        await store.prepare()
    while stores:
        await until(lambda: any(store._database.checkpointer.elected for store in stores))
        settings = [await store._database.maintain(pages) for store in stores]
        assert sorted(settings) == [0] * (len(stores) - 1) + [_checkpoint.PAGES]
        assert [bool(setting) for setting in settings] == [store._database.checkpointer.elected for store in stores]
        await stores.pop(settings.index(_checkpoint.PAGES)).aclose()


@pytest.mark.parametrize(("safe", "tells"), [((99,), True), ((3, 0), False)])
async def test_a_killed_checkpointer_is_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, safe: tuple[int, ...], tells: bool
) -> None:
    """When the process that checkpoints is killed, another takes over; an old SQLite is logged as information only."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_checkpoint, "INTERVAL", 0.02)
    monkeypatch.setattr(_checkpoint, "SAFE", safe)
    with child("stay", path) as process:
        assert await line(process) == "open"
        async with SQLiteStore(path) as store, SQLitePresence(path) as presence:
            parts = (store._database.checkpointer, presence._database.checkpointer)
            for number in range(20):
                await store.save(Event("alice", "t", number))
            await until(lambda: not tells or "It is avoided" in caplog.text)
            assert not any(part.elected for part in parts)
            process.send_signal(signal.SIGKILL)
            await until(lambda: any(part.elected for part in parts))
    assert caplog.text.count("It is avoided") == tells  # once for each file
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_wal_is_bounded_once_nobody_pins_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody holds a read transaction the WAL grows, as the gauge tells; afterwards it shrinks."""
    monkeypatch.setattr(_checkpoint, "INTERVAL", 0.05)
    assert SQLiteStore(path).wal_size == 0
    async with SQLiteStore(path, synchronous="NORMAL") as store:
        await store.save(Event("alice", "t"))
        with opened(path) as file:
            file.execute("BEGIN")
            file.execute("SELECT count(*) FROM notify_events").fetchall()
            while store.wal_size <= 2 * _checkpoint.LIMIT:
                await store.save_many([Event("alice", "t", "x" * 20_000) for _ in range(50)])
            await store._database.checkpointer.step()
            assert store.wal_size > 2 * _checkpoint.LIMIT
            file.execute("COMMIT")
        await until(lambda: store.wal_size <= _checkpoint.LIMIT)
        await store.save(Event("alice", "t"))


async def test_a_checkpoint_that_fails_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpointer that meets an error says so and goes on."""
    monkeypatch.setattr(_checkpoint, "INTERVAL", 0.01)
    async with SQLiteStore(path) as store:
        await until(lambda: store._database.checkpointer.elected)
        monkeypatch.setattr(_checkpoint, "LIMIT", -1)
        monkeypatch.setattr(store._database.file, "_identity", None)
        writer = store._database._writer
        assert writer is not None
        await writer.close()
        await until(lambda: "cannot checkpoint" in caplog.text)


# -- where the file is -------------------------------------------------------------------------------------------


async def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a file system that hosts share raises UsageError on first use, unless that is asked for."""
    mounts = path.parent / "mounts"
    where = str(path.parent.resolve()).replace(" ", r"\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {where} nfs4 rw 0 0\nproc /proc proc rw 0 0\n")
    monkeypatch.setattr(_file, "MOUNTS", mounts)
    assert _file.file_system("/etc/hosts") == "ext4"
    store = SQLiteStore(path)
    with pytest.raises(UsageError, match="nfs4"):
        await store.save(Event("alice", "t"))
    with pytest.raises(UsageError, match="network=True"):
        await store.head("alice")
    await store.aclose()
    async with SQLiteStore(path, network=True) as store:
        await store.save(Event("alice", "t"))


def test_where_the_system_tells_nothing_nothing_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a table of mounts, every file counts as local."""
    monkeypatch.setattr(_file, "MOUNTS", path)
    assert _file.file_system(str(path)) == ""
    _file.check_local(str(path))


async def test_a_copy_of_a_file_in_use_can_be_opened(path: Path, tmp_path: Path) -> None:
    """The documented backup, made while a store writes, opens as a store with everything that was accepted."""
    async with SQLiteStore(path) as store:
        events = [await store.save(Event("alice", "t", number)) for number in range(20)]
        with opened(path) as file:
            file.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    async with SQLiteStore(tmp_path / "copy.db") as copy:
        assert (await copy.read("alice", "0", 100)).events == events
