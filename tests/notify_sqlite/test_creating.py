"""What creates the file and its tables, what does not, what belongs to the application, and what forgetting leaves."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, Event, Gap, Notifier, PushRejectedError, RoutingInfo
from notify.abc import Ephemerals, Forget, Prepare, ability
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore
from notify_sqlite._lock import FileLock
from notify_sqlite._schema import FILES, statements
from tests.parts import until
from tests.servers.sqlite import content, exists, files, locked, opened, write

pytestmark = pytest.mark.anyio

READS: dict[str, tuple[Callable[[Any], Awaitable[object]], object]] = {
    "head": (lambda store: store.head("alice"), "0"),
    "read": (lambda store: store.read("alice", "0", 10), None),
    "read_many": (lambda store: store.read_many({"alice": "0"}, 10), {}),
    "trim": (lambda store: store.trim("9-0"), 0),
    "forget": (lambda store: store.forget("alice"), 0),
}


def tables(path: Path) -> set[str]:
    """What a file holds."""
    with opened(path) as file:
        return {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.parametrize("part", FILES)
def test_statements_have_plain_parameters(part: str) -> None:
    """Numbered ones (?1), bound from a sequence, make Python 3.12 and 3.13 warn, and 3.14 refuse the statement."""
    assert [name for name, sql in statements(part, "notify_").items() if re.search(r"\?\d", sql)] == []


def traces(path: Path, user: str) -> list[str]:
    """The tables in which something of a user is left: no column of any of them is left out."""
    with opened(path) as file:
        return [
            table
            for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if any(user in str(value) for row in file.execute(f"SELECT * FROM {table}") for value in row)
        ]


# -- reading creates nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SQLiteStore, SQLiteStreamStore])
@pytest.mark.parametrize("name", READS)
async def test_reading_creates_nothing(path: Path, kind: type[SQLiteStore], name: str) -> None:
    """What was never prepared is an empty log: no file, and in a file of the application no table, is created."""
    call, expected = READS[name]
    for start in ("missing", "empty", "application"):
        if start == "empty":
            write(path, b"")
        elif start == "application":
            with opened(path) as file:
                file.execute("CREATE TABLE mine (x)")
        before = content(path) if exists(path) else None
        store = kind(path)
        result = await call(store)
        assert expected is None or result == expected
        await store.aclose()
        assert (content(path) if exists(path) else None) == before
        assert [file.name for file in files(path.parent)] == ([path.name] if before is not None else [])


async def test_an_empty_log_ends_at_zero(path: Path) -> None:
    """A page of what was never prepared is empty; a position in it is a gap, as after a user was forgotten."""
    store = SQLiteStore(path)
    page = await store.read("alice", "0", 10)
    assert ([*page.events], page.gap, page.position) == ([], None, "0")
    assert (await store.read("alice", "5-0", 10)).gap == "expired"
    assert {user: page.gap for user, page in (await store.read_many({"a": "0", "b": "5-0"}, 10)).items()} == {
        "b": "expired"
    }
    await store.aclose()


async def test_presence_that_nobody_has_creates_nothing(path: Path) -> None:
    """Asking where users are makes no file; registering one does."""
    async with SQLiteStore(path.with_name("other.db")):
        pass
    tracker = SQLitePresence(path)
    assert await tracker.locate(["alice"]) == {}
    assert not exists(path)
    await tracker.register("alice")
    assert "notify_presence" in tables(path)
    await tracker.aclose()


@pytest.mark.parametrize("start", ["missing", "empty"])
async def test_a_stream_waits_for_the_file(path: Path, start: str) -> None:
    """A stream on what was never prepared creates nothing, is healthy, and gets the first event of another process."""
    if start == "empty":
        write(path, b"")
    store = SQLiteStreamStore(path)
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        health = await notifier.check()
        assert health.ok, health
        assert start == "empty" or not exists(path)
        async with SQLiteStreamStore(path) as other, Notifier(other) as there:
            event = await there.push("alice", "t")
            assert await stream.next(5) == event
            other.send_ephemeral(Event("alice", "typing").stored("", ""))
            assert (await stream.next(5)).type == "typing"
    await store.aclose()


@pytest.mark.parametrize("how", ["save", "enter", "prepare"])
async def test_what_creates(path: Path, how: str) -> None:
    """The first save, `async with` and `prepare` create file and tables, also while a reader has found none."""
    reader = SQLiteStreamStore(path)
    assert await reader.head("alice") == "0"
    store = SQLiteStreamStore(path)
    if how == "save":
        await store.save(Event("alice", "t"))
    elif how == "enter":
        await store.__aenter__()
    else:
        await store.prepare()
        await store.prepare()
    assert {name for name in tables(path) if name.startswith("notify_")} == {
        "notify_schema", "notify_counter", "notify_heads", "notify_events", "notify_keys", "notify_ephemerals",
        "notify_inbox", "notify_items", "notify_follows",
    }  # fmt: skip
    event = await store.save(Event("alice", "t"))
    assert await reader.head("alice") == event.id
    await store.aclose()
    await reader.aclose()


async def test_preparing_says_what_is_missing(path: Path) -> None:
    """Where it cannot be created, `prepare` names the place and the remedy."""
    store = SQLiteStore(path.parent / "missing" / "x.db")
    with pytest.raises(
        BackendUnavailableError, match=r"cannot be prepared: .* the directory .* does not exist: create it"
    ):
        await store.prepare()
    await store.aclose()
    async with SQLiteStore(path):
        pass
    blocked = SQLiteStore(path, table_prefix="other_", timeout=0.05)
    with locked(path), pytest.raises(BackendUnavailableError, match="cannot be prepared: another connection holds"):
        await blocked.prepare()
    await blocked.aclose()


@pytest.mark.parametrize("kind", [SQLiteStore, SQLiteStreamStore])
async def test_the_script_is_what_is_prepared(path: Path, tmp_path: Path, kind: type[SQLiteStore]) -> None:
    """An administrator who runs the script has the same file; nothing is left to create."""
    store = kind(path)
    assert ability(store, Prepare)
    await store.prepare()
    with opened(tmp_path / "by hand.db") as file, opened(path) as ours:
        file.executescript(store.script())
        schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert file.execute(schema).fetchall() == ours.execute(schema).fetchall()
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (version,) = file.execute("PRAGMA data_version").fetchone()
        async with kind(tmp_path / "by hand.db") as other:
            await other.head("alice")
            assert file.execute("PRAGMA data_version").fetchone() == (version,)
    await store.aclose()


# -- what belongs to the application -----------------------------------------------------------------------------


async def test_marks_of_the_application_stay(path: Path) -> None:
    """A file with the version and id of an application is used beside its tables, and both stay as they are."""
    with opened(path) as file:
        file.execute("PRAGMA user_version = 9")
        file.execute("PRAGMA application_id = 77")
        file.execute("CREATE TABLE mine (x)")
    async with SQLiteStore(path) as store, SQLitePresence(path) as presence:
        event = await store.save(Event("alice", "t"))
        await presence.register("alice")
        assert await store.head("alice") == event.id
    with opened(path) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (9,)
        assert file.execute("PRAGMA application_id").fetchone() == (77,)


async def test_a_table_of_somebody_else_is_named(path: Path) -> None:
    """A table that has the name of one of ours and is another one is an error that names it, and stays as it is."""
    with opened(path) as file:
        file.execute("CREATE TABLE notify_events (id INTEGER PRIMARY KEY, text TEXT)")
    store = SQLiteStore(path)
    with pytest.raises(PushRejectedError, match=r"the table notify_events is not .* no column .* another table_prefix"):
        await store.save(Event("alice", "t"))
    await store.aclose()
    assert tables(path) == {"notify_events"}


async def test_a_file_of_an_earlier_release_is_read_and_completed(path: Path) -> None:
    """Without the tables that were added since, a file is read as it is; the first write adds them."""
    async with SQLiteStore(path) as store:
        event = await store.save(Event("alice", "t"))
    with opened(path) as file:
        for table in ("schema", "ephemerals"):
            file.execute(f"DROP TABLE notify_{table}")
    async with _reading(path) as reader, reader.subscribe("alice", "0") as stream:
        assert await stream.next(5) == event
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("CREATE TABLE mine (x)")
            version = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            await until(lambda: reader.is_receiving)
            assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() == version
        async with SQLiteStore(path) as store:
            second = await store.save(Event("alice", "t"))
            assert await stream.next(5) == second
    with opened(path) as file:
        assert file.execute("SELECT part, version FROM notify_schema").fetchall() == [("store", 1)]


class _reading(SQLiteStreamStore):
    """A store that is entered without being prepared."""

    async def __aenter__(self) -> _reading:  # type: ignore[override]
        return self


async def test_tables_without_a_version_get_one(path: Path) -> None:
    """A version table that was emptied, as by a dump of the schema alone, is no obstacle."""
    async with SQLiteStore(path):
        pass
    with opened(path) as file:
        file.execute("DELETE FROM notify_schema")
    async with SQLiteStore(path) as store:
        await store.save(Event("alice", "t"))
    with opened(path) as file:
        assert file.execute("SELECT part, version FROM notify_schema").fetchall() == [("store", 1)]


# -- forgetting --------------------------------------------------------------------------------------------------


async def test_nothing_of_a_forgotten_user_is_left(path: Path) -> None:
    """No table, no free page and no page of the log holds the user's id or payloads; other users keep all."""
    store, other = SQLiteStreamStore(path), SQLiteStreamStore(path)
    dead = SQLitePresence(path, ttl=0.1)
    assert ability(store, Forget)
    async with store, other:
        await store.save_many([Event("alice-x", "t", f"secret-{n}" * 40, key=f"key-alice-x-{n}") for n in range(700)])
        await store.save_many([Event("alice-x", "t", "secret" * 2000) for _ in range(3)])
        kept = [await store.save(Event("bob", "t", n, key=f"b{n}")) for n in range(3)]
        await dead.register("alice-x", RoutingInfo("a"))
        await dead._keeper.abandon()
        await until(lambda: not _counts(path))
        store.send_ephemeral(Event("alice-x", "typing").stored("", ""))
        await until(lambda: "notify_ephemerals" in traces(path, "alice-x"))
        assert len(traces(path, "alice-x")) == 5
        assert await store.forget("alice-x") == 703
        assert traces(path, "alice-x") == []
        assert (await store.read("bob", "0", 10)).events == kept
        assert await store.head("alice-x") == "0"
        assert await store.forget("alice-x") == 0
        await until(lambda: store._database.checkpointer.elected or other._database.checkpointer.elected)
        await store._database.maintain(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        assert b"secret" not in content(path)
        assert b"alice-x" not in content(path)
    await dead._database.aclose()


def _counts(path: Path) -> bool:
    """Whether the lease of a crashed tracker still counts."""
    with opened(path) as file:
        return bool(
            file.execute("SELECT 1 FROM notify_leases WHERE expires > ?", (int(time.time() * 1000),)).fetchone()
        )


async def test_the_wal_is_emptied_where_this_process_checkpoints(path: Path) -> None:
    """After a user was forgotten by the elected process, the write-ahead log holds nothing of that user either."""
    async with SQLiteStore(path) as store:
        await store.save(Event("alice-x", "t", "secret"))
        await until(lambda: store._database.checkpointer.elected)
        assert await store.forget("alice-x") == 1
        assert store.wal_size == 0
        assert b"secret" not in content(path)


async def test_a_user_who_is_connected_stays_connected(path: Path) -> None:
    """The presence of open streams is kept: they go on, with a gap, in the log that begins again."""
    async with SQLiteStreamStore(path) as store, SQLitePresence(path) as presence, SQLitePresence(path) as other:
        async with Notifier(store, presence=presence) as notifier, notifier.subscribe("alice") as stream:
            first = await notifier.push("alice", "t", 1)
            assert first is not None
            assert await stream.next(5) == first
            assert await notifier.forget("alice") == 1
            second = await notifier.push("alice", "t", 2)
            assert second is not None
            assert await stream.next(5) == second
            assert second.prev == "0"
            assert stream.gaps == (Gap("expired", first.id, "0"),)
            assert "alice" in await other.locate(["alice"])


async def test_another_process_checkpoints(path: Path) -> None:
    """Forgetting works without being elected; the WAL is then emptied by the process that is."""
    lock = FileLock(f"{path}-checkpointer", str(path))
    async with SQLiteStore(path) as store:
        await until(lambda: store._database.checkpointer.elected)
        store._database.checkpointer.release()
        assert lock.acquire()
        await store.save(Event("alice", "t"))
        assert await store.forget("alice") == 1
        assert store.wal_size > 0
    lock.release()


async def test_two_first_calls_open_once(path: Path) -> None:
    """Calls that meet at a file that is not open yet share its connections."""
    store = SQLiteStore(path)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(store.prepare)
            tasks.start_soon(store.save, Event("alice", "t"))
            tasks.start_soon(store.head, "alice")
    assert len((await store.read("alice", "0", 10)).events) == 3
    await store.aclose()


async def test_forgetting_that_fails_says_so(path: Path) -> None:
    """While the lock is held elsewhere, forgetting raises with the cause, and can be repeated."""
    async with SQLiteStore(path, timeout=0.05) as store:
        await store.save(Event("alice", "t"))
        with locked(path), pytest.raises(BackendUnavailableError, match="cannot be erased: another connection holds"):
            await store.forget("alice")
        assert await store.forget("alice") == 1


def test_the_abilities_are_there() -> None:
    """A stream store can prepare, forget and send ephemeral events; a plain store carries none."""
    assert ability(SQLiteStreamStore("x.db"), Ephemerals)
    assert not ability(SQLiteStore("x.db"), Ephemerals)
    assert set(statements("store", "notify_")) > {"create_ephemerals"}
