"""What users are told when the path is wrong, the file cannot be opened or locked, or the event loop is another one."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import (
    BackendUnavailableError,
    Event,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
)
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore, _record, _save
from notify_sqlite._file import why_not
from tests.notify_sqlite.children import child
from tests.parts import until
from tests.servers.sqlite import locked

pytestmark = pytest.mark.anyio

PARTS = [SQLiteStore, SQLiteStreamStore, SQLitePresence]


@pytest.mark.parametrize("part", PARTS)
def test_a_path_is_no_url_and_no_other_object(part: Any) -> None:
    """Every constructor refuses a URL, without its secrets, and what is neither a string nor a path."""
    for url in ("sqlite:///x.db", "postgresql://bob:s3cret@host/db"):
        with pytest.raises(UsageError, match="path of a file, not a URL") as caught:
            part(url)
        assert "s3cret" not in str(caught.value)
    for wrong in (None, 7, b"x.db"):
        with pytest.raises(UsageError, match=r"path of a file, not (NoneType|int|bytes)"):
            part(wrong)


@pytest.mark.parametrize("place", ["missing/x.db", "~/x.db", "."])
async def test_what_cannot_be_opened_is_named(path: Path, place: str) -> None:
    """Where there is no such directory, or the path is one, each error of reads, pushes and presence has the path."""
    place = str(path.parent / place)
    for store in (SQLiteStore(place), SQLiteStreamStore(place)):
        with pytest.raises(BackendUnavailableError) as unread:
            await store.head("alice")
        with pytest.raises(PushRejectedError) as unstored:
            await store.save(Event("alice", "t"))
        for error in (unread.value, unstored.value):
            assert "the file cannot be opened" in str(error)
            assert str(error).endswith(f": {Path(place)}")
        await store.aclose()
    presence = SQLitePresence(place)
    with pytest.raises(BackendUnavailableError) as unseen:
        await presence.register("alice")
    assert str(unseen.value).endswith(f": {Path(place)}")
    await presence.aclose()


async def test_who_holds_the_lock_is_left_open(path: Path) -> None:
    """A lock that another connection of this very process holds is not said to be another process's."""
    async with SQLiteStore(path, timeout=0.1) as store:
        with (
            locked(path),
            pytest.raises(OverloadedError, match=r"another connection holds .* lock of the file .*: /"),
        ):
            await store.save(Event("alice", "t"))


async def test_another_event_loop_is_refused(path: Path) -> None:
    """What was used in one event loop refuses every call from another one, and goes on in its own."""

    async def refused(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await call()

    async with SQLiteStreamStore(path) as store, SQLitePresence(path) as presence:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.save(Event("alice", "t")),
            lambda: store.head("alice"),
            lambda: store.trim("0"),
            lambda: presence.register("alice"),
            lambda: presence.locate(["alice"]),
        ]
        for call in calls:
            await anyio.to_thread.run_sync(anyio.run, refused, call)
        event = await store.save(Event("alice", "t"))
        assert (await store.read("alice", "0", 10)).events[0] == event


# -- what is wrong with the file, and what to do -----------------------------------------------------------------


def _missing(path: Path) -> Path:
    return path.parent / "missing" / "x.db"


def _below_a_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path / "x.db"


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.parent / "missing" / "x.db")
    return path


def _text(path: Path) -> Path:
    path.write_bytes(b"not a database, but long enough to have a header" * 100)
    return path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (_missing, r"the directory .*/missing does not exist: create it, or correct the path"),
    "below a file": (_below_a_file, r"notify.db is not a directory: correct the path"),
    "directory": (_directory, r"it is a directory: give the path of a file in it"),
    "pipe": (_pipe, r"it is not a regular file: give the path of one"),
    "dangling": (_dangling, r"the directory .*/missing does not exist"),
    "text": (_text, r"not an SQLite database, or is encrypted: choose another path"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_said_with_the_remedy(path: Path, case: str) -> None:
    """Reading, saving, preparing, trimming and presence say what is wrong with the path, each of what it was to do."""
    make, cause = WRONG[case]
    place = make(path)
    store, presence = SQLiteStreamStore(place, timeout=0.2), SQLitePresence(place, timeout=0.2)
    calls: list[tuple[Callable[[], Awaitable[object]], type[Exception], str]] = [
        (lambda: store.head("alice"), BackendUnavailableError, "cannot be read: "),
        (lambda: store.save(Event("alice", "t")), PushRejectedError, "nothing was stored: "),
        (store.prepare, BackendUnavailableError, "cannot be prepared: "),
        (lambda: store.trim("0"), BackendUnavailableError, "cannot be read: "),
        (lambda: presence.register("alice"), BackendUnavailableError, "cannot be written: "),
        (lambda: presence.locate(["alice"]), BackendUnavailableError, "cannot be read: "),
    ]
    for call, kind, begins in calls:
        with pytest.raises(kind) as caught:
            await call()
        assert str(caught.value).startswith(begins)
        assert re.search(cause, str(caught.value)), str(caught.value)
        assert str(caught.value).endswith(f": {place}")
    await store.aclose()
    await presence.aclose()


def test_too_many_open_files(path: Path) -> None:
    """A process that may open no more files is told so, not that the file is missing."""
    with child("starve", path) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
    assert "too many open files: raise the limit of open files (ulimit -n)" in said


def test_a_read_only_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is mounted read-only is named as the cause."""
    found = os.statvfs(path.parent)
    fields = (*found[:8], found.f_flag | os.ST_RDONLY, *found[9:])
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    assert "mounted read-only" in why_not(str(path), sqlite3.SQLITE_READONLY)


def test_what_cannot_be_explained_is_not_guessed(path: Path) -> None:
    """Where nothing that can be seen is wrong, the message has only the words of SQLite."""
    path.write_bytes(b"")
    assert why_not(str(path), sqlite3.SQLITE_READONLY) == ""
    assert why_not(str(path), sqlite3.SQLITE_CANTOPEN) == ""


# -- whose fault it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["type", "statement", "value"])
async def test_a_bug_is_called_a_bug(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A mistake of ours in a thread is logged once with its traceback and fails the calls as that; then all goes on."""

    def mistaken(db: sqlite3.Connection, **_: Any) -> Any:
        if what == "statement":
            return db.execute("SELECT ?", ())
        raise TypeError("a mistake") if what == "type" else ValueError("a mistake")

    async with SQLiteStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(_save, "append", mistaken)
            patch.setattr(_record, "head", mistaken)
            for _ in range(3):
                with pytest.raises(PushRejectedError, match="nothing was stored: a bug in notify_sqlite, not"):
                    await store.save(Event("alice", "t"))
                with pytest.raises(BackendUnavailableError, match="cannot be read: a bug in notify_sqlite"):
                    await store.head("alice")
        event = await store.save(Event("alice", "t"))
        assert await store.head("alice") == event.id
        assert event.prev == "0"
    records = [record for record in caplog.records if record.name == "notify.sqlite"]
    assert len(records) == 1  # both calls fail in the same line
    assert records[0].exc_info is not None
    assert "closed" not in caplog.text


async def test_what_follows_a_save_cannot_lose_its_outcome(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Streams or callbacks that raise are logged; every other caller has its outcome."""
    outcomes: list[object] = []

    def wrong(outcome: object) -> None:
        raise KeyError("a callback")

    def broken(events: object) -> None:
        raise AttributeError("a stream")

    async with SQLiteStore(path) as store:
        monkeypatch.setattr(store._saver, "_on_stored", broken)
        store.save_soon(Event("alice", "t", 1), wrong)
        store.save_soon(Event("alice", "t", 2), outcomes.append)
        await until(lambda: outcomes)
        assert isinstance(outcomes[0], Event)
    assert "a callback of save_soon raised" in caplog.text
    assert "a bug in notify_sqlite" in caplog.text


async def test_a_bug_before_the_transaction_is_a_bug(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake while a transaction is made up fails its pushes as that, and the next ones are stored."""

    def mistaken(*_: Any) -> Any:
        raise LookupError("a mistake")

    async with SQLiteStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._saver, "_job", mistaken)
            with pytest.raises(PushRejectedError, match="a bug in notify_sqlite"):
                await store.save(Event("alice", "t"))
        await store.save(Event("alice", "t"))


async def test_a_job_that_is_interrupted_is_uncertain(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised to end a thread leaves an unknown outcome, and no transaction."""

    def interrupted(db: sqlite3.Connection, **_: Any) -> Any:
        raise KeyboardInterrupt

    async with SQLiteStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(_save, "append", interrupted)
            with pytest.raises(PushUncertainError, match="was interrupted"):
                await store.save(Event("alice", "t"))
        await store.save(Event("alice", "t"))
