"""What is special about presence in a SQLite file: leases of real processes, clocks, locks, many registrations."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, ClosedError, Notifier, RoutingInfo, UsageError
from notify_sqlite import SQLitePresence, SQLiteStreamStore
from tests.notify_sqlite.children import child, line
from tests.parts import until
from tests.servers.sqlite import locked, opened

pytestmark = pytest.mark.anyio

A, B = RoutingInfo("a", {"host": "1"}), RoutingInfo("a", {"host": "2"})


async def is_there(tracker: SQLitePresence, user: str) -> bool:
    """Whether the tracker locates this user."""
    return user in await tracker.locate([user])


async def is_gone(tracker: SQLitePresence, user: str) -> bool:
    """Whether the tracker does not locate this user."""
    return not await is_there(tracker, user)


def count(path: Path, table: str) -> int:
    """Count the rows of a table."""
    with opened(path) as file:
        return int(file.execute(f"SELECT count(*) FROM notify_{table}").fetchone()[0])


@pytest.mark.parametrize("ttl", [0.0, -1.0, 0.05, float("nan"), 100_000.0])
def test_a_ttl_that_cannot_work_is_refused(ttl: float) -> None:
    """A time to live that is too short to renew, or absurd, raises UsageError in the constructor."""
    with pytest.raises(UsageError, match="ttl"):
        SQLitePresence("x.db", ttl=ttl)


async def test_a_killed_process_vanishes_within_a_ttl(path: Path) -> None:
    """What a killed process had registered is gone a time to live later, and its rows leave the file soon after."""
    async with SQLitePresence(path, ttl=1.5) as tracker:
        await tracker.register("bob")
        with child("attend", path, "alice", 1.5) as process:
            assert await line(process) == "registered"
            assert await is_there(tracker, "alice")
            process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            await until(partial(is_gone, tracker, "alice"))
            assert time.monotonic() - killed < 1.5 + 5.0
        await until(lambda: (count(path, "leases"), count(path, "presence")) == (1, 1))
        assert await is_there(tracker, "bob")


async def test_a_frozen_process_comes_back(path: Path) -> None:
    """A process that was stopped for longer than its lease is offline, and online again when it continues."""
    async with SQLitePresence(path, ttl=0.4) as tracker:
        await tracker.register("bob")
        with child("attend", path, "alice", 0.4) as process:
            assert await line(process) == "registered"
            process.send_signal(signal.SIGSTOP)
            await until(lambda: count(path, "leases") == 1)
            assert await is_gone(tracker, "alice")
            process.send_signal(signal.SIGCONT)
            await until(partial(is_there, tracker, "alice"))


async def test_a_clock_that_steps_back_prolongs_no_dead_lease(path: Path) -> None:
    """After the clock stepped back two hours, the dead are offline at once and the living stay."""
    ahead = [7200.0]
    here = SQLitePresence(path, ttl=0.5, clock=lambda: time.time() + ahead[0])
    dead = SQLitePresence(path, ttl=0.5, clock=lambda: time.time() + 7200)
    await here.register("alice")
    await dead.register("bob")
    await dead._keeper.abandon()
    ahead[0] = 0.0
    async with SQLitePresence(path, ttl=0.5) as other:
        assert await is_gone(other, "bob")
        await until(partial(is_there, other, "alice"))
        await until(lambda: count(path, "leases") == 1)
    await dead._database.aclose()
    await here.aclose()


async def test_a_lease_that_is_renewed_while_users_are_located(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user appears offline because a lease was renewed between the call and the look at the file."""
    async with SQLitePresence(path, ttl=30) as tracker, SQLitePresence(path, ttl=30) as other:
        await tracker.register("alice")
        read = other._database.read

        async def read_late(job: Any, empty: Any) -> Any:
            await anyio.sleep(0.005)  # the clock has to show another millisecond
            with opened(path) as file:
                file.execute("UPDATE notify_leases SET expires = ?", (int(time.time() * 1000) + 30_000,))
            return await read(job, empty)

        monkeypatch.setattr(other._database, "read", read_late)
        assert await is_there(other, "alice")


async def test_many_registrations_are_renewed_as_one(path: Path) -> None:
    """Twelve hundred registrations are one lease: lost altogether, they are all back within a time to live."""
    users = [f"user{number}" for number in range(1200)]
    async with SQLitePresence(path, ttl=1.0) as tracker, SQLitePresence(path, ttl=1.0) as other:
        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(tracker.register, user, A)
        assert list(await other.locate(users)) == users
        assert (count(path, "leases"), count(path, "presence")) == (1, 1200)
        with opened(path) as file:
            file.execute("DELETE FROM notify_presence")
        await until(lambda: count(path, "presence") == 1200)
        await tracker.aclose()
        assert not await other.locate(users)
        assert (count(path, "leases"), count(path, "presence")) == (0, 0)


async def test_what_many_dead_left_is_removed_little_by_little(path: Path) -> None:
    """The rows of a dead tracker leave in several transactions, and those of a living one stay."""
    dead = SQLitePresence(path, ttl=0.1)
    async with anyio.create_task_group() as tasks:
        for number in range(1200):
            tasks.start_soon(dead.register, f"user{number}")
    await dead._keeper.abandon()
    async with SQLitePresence(path, ttl=3) as tracker:
        await tracker.register("alice")
        await until(lambda: count(path, "presence") == 1)
        assert await is_there(tracker, "alice")
    await dead._database.aclose()


async def test_the_latest_metadata_of_an_instance_count(path: Path) -> None:
    """Two registrations at one instance are one location with the metadata of the later one, while it lasts."""
    async with SQLitePresence(path) as tracker, SQLitePresence(path) as other:
        first, second = await tracker.register("alice", A), await tracker.register("alice", B)
        for one in (tracker, other):
            assert await one.locate(["alice"]) == {"alice": [B]}
        third = await tracker.register("alice", B)
        await third.aclose()
        await second.aclose()
        for one in (tracker, other):
            assert await one.locate(["alice"]) == {"alice": [A]}
        await first.aclose()
        for one in (tracker, other):
            assert await one.locate(["alice"]) == {}


async def test_a_registration_that_cannot_be_written_is_none(path: Path) -> None:
    """Registering while another connection holds the lock raises BackendUnavailableError and registers no user."""
    async with SQLitePresence(path, timeout=0.05) as tracker:
        with locked(path), pytest.raises(BackendUnavailableError) as caught:
            await tracker.register("alice")
        assert caught.value.backend == "SQLitePresence"
        assert await is_gone(tracker, "alice")
        await tracker.register("bob")
        await until(lambda: count(path, "presence") == 1)


async def test_a_lock_held_for_long_ends_no_registration(path: Path) -> None:
    """A lease that could not be renewed in time is renewed once the lock is free; until then only others miss it."""
    async with SQLitePresence(path, ttl=0.3, timeout=0.05) as tracker, SQLitePresence(path) as other:
        await tracker.register("alice")
        with locked(path):
            await until(partial(is_gone, other, "alice"))
            assert await is_there(tracker, "alice")
        await until(partial(is_there, other, "alice"))


async def test_a_release_that_fails_is_made_good(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was released while the file was locked is written later; closing then says what it could not do."""
    tracker = SQLitePresence(path, ttl=0.6, timeout=0.05)
    async with SQLitePresence(path) as other:
        kept, gone = await tracker.register("alice"), await tracker.register("bob")
        with locked(path):
            await gone.aclose()
            assert "cannot write or renew its registrations" in caplog.text
        await until(partial(is_gone, other, "bob"))
        await until(partial(is_there, other, "alice"))  # on a busy machine her lease may have ended meanwhile
        with locked(path):
            await tracker.aclose()
        assert "cannot release presence" in caplog.text
        kept.release()
        await kept.aclose()
        await until(partial(is_gone, other, "alice"))


async def test_closing_ends_a_registration_under_way(path: Path) -> None:
    """Whoever waits in `register` while the tracker closes gets ClosedError."""
    tracker = SQLitePresence(path)
    await tracker.register("alice")
    with locked(path) as file:
        async with anyio.create_task_group() as tasks:

            async def register() -> None:
                with pytest.raises(ClosedError):
                    await tracker.register("bob")
                file.execute("ROLLBACK")

            tasks.start_soon(register)
            await until(lambda: tracker._keeper._writing)
            tasks.start_soon(tracker.aclose)
    assert (count(path, "leases"), count(path, "presence")) == (0, 0)


async def test_nobody_registered_costs_nothing(path: Path) -> None:
    """A tracker whose registrations have all ended writes nothing any more, and renews again with the next one."""
    async with SQLitePresence(path, ttl=0.1) as tracker, SQLitePresence(path) as other:
        await (await tracker.register("alice")).aclose()
        with opened(path) as file:
            (version,) = file.execute("PRAGMA data_version").fetchone()
            await anyio.sleep(0.3)
            assert file.execute("PRAGMA data_version").fetchone() == (version,)
        await tracker.register("alice")
        await anyio.sleep(0.3)
        with anyio.fail_after(10):  # a busy machine may renew late; what nothing renews does not return
            while not await is_there(other, "alice"):  # noqa: ASYNC110 - nothing says when
                await anyio.sleep(0.01)


async def test_one_file_for_everything(path: Path) -> None:
    """Two instances with store and presence in one file: an open stream is seen elsewhere, and its end too."""
    stores, trackers = [SQLiteStreamStore(path) for _ in "ab"], [SQLitePresence(path) for _ in "ab"]
    async with (
        Notifier(stores[0], presence=trackers[0], instance_id="a", linger=0) as here,
        Notifier(stores[1], presence=trackers[1], instance_id="b", offline="drop") as there,
    ):
        assert await there.push("alice", "t") is None
        async with here.subscribe("alice") as stream:
            await until(partial(is_there, trackers[1], "alice"))
            event = await there.push("alice", "t")
            assert await stream.next(5) == event
        await until(partial(is_gone, trackers[1], "alice"))
        assert (await here.check()).ok
    for part in (*stores, *trackers):
        await part.aclose()
