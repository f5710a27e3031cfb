"""Being told of commits by the system, and polling where it does not tell."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import Event
from notify_sqlite import SQLiteStore, SQLiteStreamStore, _changes, _connection, _listen
from notify_sqlite._changes import PollingWaiter, SystemWaiter, make_waiter
from tests.parts import until
from tests.servers.sqlite import exists, opened, write

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(_changes.INotify is None or sys.platform != "linux", reason="needs inotify_simple"),
]


def handles() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_a_change_of_the_times_ends_the_wait(path: Path) -> None:
    """Setting the times wakes at once; writing, as SQLite does before the commit is visible, does not."""
    path.touch()
    waiter = SystemWaiter(str(path))
    try:
        with path.open("ab", buffering=0) as file:
            file.write(b"x")
            assert waiter.wait(0.05)
            assert not waiter.told
        threading.Timer(0.05, os.utime, [path]).start()
        began = time.monotonic()
        assert waiter.wait(10)
        assert waiter.told
        assert time.monotonic() - began < 5
        assert waiter.wait(0)
        assert not waiter.told
    finally:
        waiter.close()


def test_a_file_that_is_created_anew_is_watched(path: Path) -> None:
    """When the file is removed that ends the wait, and one that is created later is watched."""
    path.touch()
    waiter = SystemWaiter(str(path))
    try:
        path.unlink()
        assert waiter.wait(5)
        assert waiter.told
        while waiter.told:
            assert waiter.wait(0)
        path.touch()
        assert waiter.wait(0)  # it looks whether there is another one
        os.utime(path)
        assert waiter.wait(5)
        assert waiter.told
    finally:
        waiter.close()


@pytest.mark.parametrize("kind", ["told", "polling"])
def test_stopping_ends_the_wait_for_good(path: Path, kind: str) -> None:
    """A waiter that was stopped, from any thread, at any time, does not wait any more; closing it twice is harmless."""
    path.touch()
    before = handles()
    waiter = make_waiter(str(path), 30) if kind == "told" else PollingWaiter(30)
    assert isinstance(waiter, SystemWaiter) == (kind == "told")
    threading.Timer(0.05, waiter.stop).start()
    began = time.monotonic()
    assert not waiter.wait(20)
    assert not waiter.wait(20)
    assert time.monotonic() - began < 5
    waiter.close()
    waiter.close()
    waiter.stop()
    assert handles() == before


@pytest.mark.parametrize("why", ["no file", "no library", "no inotify", "limit"])
def test_where_the_system_does_not_tell_it_is_polled(path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Without a file, the library, the system call, or a free watch, the waiter polls, and holds nothing open."""
    before = handles()
    if why == "no library":
        monkeypatch.setattr(_changes, "INotify", None)
    elif why == "no inotify":
        monkeypatch.setattr(_changes, "INotify", _Absent)
    elif why == "limit":
        path.touch()
        monkeypatch.setattr(_changes, "INotify", _Full)
    waiter = make_waiter(str(path), 0.001)
    assert isinstance(waiter, PollingWaiter)
    assert waiter.wait(10)
    assert not waiter.told
    waiter.close()
    assert handles() == before


class _Absent:
    """A C library that has no such call."""

    def __init__(self, **options: Any) -> None:
        raise AttributeError("inotify_init1")


class _Full(_changes.INotify or object):  # type: ignore[misc]
    """A user who has used up the watches of `fs.inotify.max_user_watches`."""

    def add_watch(self, path: str, mask: int) -> int:
        raise OSError(28, "No space left on device")


def test_the_library_is_optional() -> None:
    """Without `inotify_simple` the package is imported and polls."""
    code = (
        "import sys; sys.modules['inotify_simple'] = None\n"
        "from notify_sqlite import _changes; print(_changes.make_waiter('/', 1).__class__.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "PollingWaiter\n"


async def test_a_commit_elsewhere_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a look only every half minute, events of another store are here at once, stored and ephemeral ones."""
    monkeypatch.setattr(_listen, "FILE_CHECK", 30)
    async with SQLiteStreamStore(path, poll_interval=30) as store, SQLiteStreamStore(path) as other:
        async with store.subscribe("alice") as stream:
            await until(lambda: isinstance(store._watcher._waiter, SystemWaiter))
            delays = []
            for number in range(20):
                event = await other.save(Event("alice", "t", number))
                began = time.monotonic()
                assert await stream.next(5) == event
                delays.append(time.monotonic() - began)
            assert min(delays) < 0.1
            other.send_ephemeral(Event("alice", "typing").stored("", ""))
            assert (await stream.next(5)).type == "typing"


async def test_commits_that_are_not_told_are_found_and_then_polled_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the system tells nothing, a look now and then finds each commit, and polling takes over after three."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_listen, "FILE_CHECK", 0.05)
    monkeypatch.setattr(_connection, "touch", lambda path: None)
    async with SQLiteStreamStore(path) as store, SQLiteStore(path) as other, store.subscribe("alice") as stream:
        await until(lambda: isinstance(store._watcher._waiter, SystemWaiter))
        while not isinstance(store._watcher._waiter, PollingWaiter):
            event = await other.save(Event("alice", "t"))
            assert await stream.next(5) == event
            await anyio.sleep(0.01)
        event = await other.save(Event("alice", "t"))
        assert await stream.next(5) == event
    assert "does not report commits" in caplog.text


async def test_a_wal_that_comes_later_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that begins before there is a WAL polls, until there is one."""
    monkeypatch.setattr(_listen, "FILE_CHECK", 0.05)
    write(path, b"")
    store = SQLiteStreamStore(path)
    stream = store.subscribe("alice")
    async with stream:
        await until(lambda: isinstance(store._watcher._waiter, PollingWaiter))
        async with SQLiteStore(path) as other:
            await other.save(Event("alice", "t"))
            await until(lambda: isinstance(store._watcher._waiter, SystemWaiter))
    await store.aclose()


async def test_a_first_look_that_fails_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that fails before it ever waited leaves nothing behind, and starts again."""
    async with SQLiteStreamStore(path) as store:
        watcher = store._watcher
        looked: list[None] = []

        def fail(db: object) -> None:
            looked.append(None)
            raise OSError("no look")

        with monkeypatch.context() as patch:
            patch.setattr(watcher, "_first_look", fail)
            async with store.subscribe("alice"):
                await until(lambda: looked)
        async with store.subscribe("alice"):
            await until(lambda: store.is_receiving)


async def test_closing_leaves_no_handle(path: Path) -> None:
    """Streams that are watched, and stores that are closed, leave no file open."""
    async with SQLiteStore(path):
        pass
    before = handles()
    for _ in range(3):
        async with SQLiteStreamStore(path) as store, store.subscribe("alice"):
            await until(lambda: store.is_receiving)
            await until(lambda: store._watcher._waiter is not None)
    await until(lambda: handles() <= before)
    assert exists(path)


async def test_commits_that_concern_nobody_wake_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of an application in the same file may change as they like: no look follows."""
    monkeypatch.setattr(_listen, "FILE_CHECK", 0.05)
    told: list[bool] = []
    wait = SystemWaiter.wait

    def counted(waiter: SystemWaiter, seconds: float) -> bool:
        is_over = wait(waiter, seconds)
        told.append(waiter.told)
        return is_over

    monkeypatch.setattr(SystemWaiter, "wait", counted)
    async with SQLiteStreamStore(path) as store, store.subscribe("alice"):
        await until(lambda: isinstance(store._watcher._waiter, SystemWaiter))
        with opened(path) as file:
            file.execute("CREATE TABLE mine (x)")
            for number in range(20):
                file.execute("INSERT INTO mine VALUES (?)", (number,))
                await anyio.sleep(0.01)  # so that two commits are not one change to the system
        looked = len(told)
        await until(lambda: len(told) > looked + 1)
        assert sum(told) < 5  # opening the file may touch the WAL, before it or after
