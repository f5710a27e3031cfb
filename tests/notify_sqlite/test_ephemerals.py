"""Events that are not stored, between processes on one file: who gets them, in which order, at what cost."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from notify import ClosedError, Event, Notifier, OverloadedError, UsageError
from notify_sqlite import SQLiteStreamStore, _ephemeral
from tests.notify_sqlite.children import child, line
from tests.parts import until
from tests.servers.sqlite import locked, opened

pytestmark = pytest.mark.anyio


def sent(user: str, number: object = None) -> Event:
    """An event that is not stored."""
    return Event(user or "-", "typing", number).addressed_to(user).stored("", "")


def users(path: Path) -> list[str]:
    """Whose rows wait to be noticed, or to be removed."""
    with opened(path) as file:
        return [user for (user,) in file.execute("SELECT user FROM notify_ephemerals")]


def rows(path: Path) -> int:
    """How many wait to be noticed, or to be removed."""
    return len(users(path))


async def test_another_process_has_them_in_order(path: Path) -> None:
    """Another process gets each of a hundred events in the order of the calls, and broadcasts; nothing is stored."""
    async with SQLiteStreamStore(path) as store, Notifier(store) as notifier:
        with child("relay", path) as process:
            assert await line(process) == "ready"
            async with notifier.subscribe("bob") as stream:
                await until(lambda: store.is_receiving)
                for number in range(100):
                    await notifier.push("alice", "typing", number, ephemeral=True)
                    await anyio.sleep(0.001)  # a reader's buffer holds 64
                await notifier.broadcast("maintenance", "soon")
                assert [await line(process) for _ in range(101)] == [*map(str, range(100)), "soon"]
                event = await stream.next(5)
                assert event.type == "maintenance"
        assert await store.head("alice") == "0"


async def test_a_broadcast_is_one_row(path: Path) -> None:
    """However many processes and users there are, a broadcast is written once, and each process shows it once."""
    stores = [SQLiteStreamStore(path) for _ in range(3)]
    async with Notifier(stores[0]) as one, Notifier(stores[1]) as two, Notifier(stores[2]) as three:
        streams = [notifier.subscribe(user) for notifier in (one, two, three) for user in ("alice", "bob")]
        for stream in streams:
            await stream.__aenter__()
        await until(lambda: all(store.is_receiving for store in stores))
        await one.broadcast("maintenance")
        assert [(await stream.next(5)).type for stream in streams] == ["maintenance"] * 6
        assert rows(path) == 1
        await one.push("alice", "t")
        stored = [await stream.next(5) for stream in streams[::2]]
        assert [event.type for event in stored] == ["t"] * 3  # nothing arrived twice
        for stream in streams:
            await stream.aclose()
    for store in stores:
        await store.aclose()


async def test_a_later_process_gets_none_of_before(path: Path) -> None:
    """A process that starts to listen after an event was sent does not get it, though its row is still there."""
    async with SQLiteStreamStore(path) as store, SQLiteStreamStore(path) as other:
        store.send_ephemeral(sent("alice", 1))
        await until(lambda: rows(path))
        async with other.subscribe("alice") as stream:
            await until(lambda: other.is_receiving)
            store.send_ephemeral(sent("alice", 2))
            assert (await stream.next(5)).payload == 2


async def test_rows_go_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are removed seconds later by who sent them, and by anybody's sweep and next event where that one died."""
    monkeypatch.setattr(_ephemeral, "KEPT", 0.2)
    async with SQLiteStreamStore(path) as store:
        store.send_ephemeral(sent("alice"))
        await until(lambda: rows(path))
        await until(lambda: not rows(path))
        with opened(path) as file:
            file.execute("INSERT INTO notify_ephemerals VALUES (1, 'dead', 'alice', x'00')")
        assert rows(path) == 1
        assert await store._sweeper.sweep() == 0
        assert rows(path) == 0
        with opened(path) as file:
            file.execute("INSERT INTO notify_ephemerals VALUES (1, 'dead', 'alice', x'00')")
        monkeypatch.setattr(_ephemeral, "KEPT", 60)
        store.send_ephemeral(sent("bob"))
        await until(lambda: users(path) == ["bob"])


async def test_a_removal_that_fails_is_left_to_the_sweeper(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the lock is held elsewhere, rows stay; that is no warning."""
    monkeypatch.setattr(_ephemeral, "KEPT", 0.1)
    caplog.set_level("INFO")
    async with SQLiteStreamStore(path, timeout=0.05) as store:
        store.send_ephemeral(sent("alice"))
        await until(lambda: rows(path))
        with locked(path):
            await until(lambda: "cannot remove ephemeral events yet" in caplog.text)
        store.send_ephemeral(sent("alice"))
        await until(lambda: not rows(path))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_an_outage_loses_them_and_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the lock is held, sending never waits; what waits too long is lost, with one line; later ones arrive."""
    async with SQLiteStreamStore(path, timeout=0.2) as store, SQLiteStreamStore(path) as other:
        async with other.subscribe("alice") as stream:
            await until(lambda: other.is_receiving)
            with locked(path):
                for number in range(_ephemeral.MAX_PENDING + 700):
                    store.send_ephemeral(sent("alice", number))
                await until(lambda: not store._ephemerals and not store._saver.is_busy)
            store.send_ephemeral(sent("alice", "after"))
            assert (await stream.next(5)).payload == "after"
            await until(lambda: "reach other processes through" in caplog.text and "again" in caplog.text)
    lines = [record for record in caplog.records if "ephemeral events" in record.getMessage()]
    assert [record.levelname for record in lines] == ["WARNING", "WARNING"]


async def test_a_lock_that_is_free_in_time_loses_none(path: Path) -> None:
    """What waits for the lock arrives in order, beside the events that are stored."""
    async with SQLiteStreamStore(path) as store, SQLiteStreamStore(path) as other, other.subscribe("alice") as stream:
        await until(lambda: other.is_receiving)
        with locked(path):
            for number in range(20):
                store.send_ephemeral(sent("alice", number))
            await until(lambda: store._saver.is_busy)
        assert [(await stream.next(5)).payload for _ in range(20)] == [*range(20)]


async def test_what_shares_a_transaction_with_an_older_save_waits_on(path: Path) -> None:
    """An event that was sent later than the saves beside it waits by its own clock, when they are refused."""
    outcomes: list[object] = []
    async with SQLiteStreamStore(path, timeout=1.0) as store, SQLiteStreamStore(path) as other:
        async with other.subscribe("alice") as stream:
            await until(lambda: other.is_receiving)
            with locked(path) as file:
                store.save_soon(Event("bob", "t"), outcomes.append)
                await anyio.sleep(0.2)
                store.save_soon(Event("bob", "t"), outcomes.append)
                await anyio.sleep(0.6)
                store.send_ephemeral(sent("alice", "later"))
                await until(lambda: len(outcomes) == 2)
                file.execute("ROLLBACK")
            assert (await stream.next(5)).payload == "later"
    assert [type(outcome) for outcome in outcomes] == [OverloadedError] * 2


async def test_unused_it_costs_nothing(path: Path) -> None:
    """Without ephemeral events no row is written, and nothing waits to remove any."""
    async with SQLiteStreamStore(path) as store, store.subscribe("alice"):
        await store.save(Event("alice", "t"))
        assert rows(path) == 0
        assert not store._ephemerals._expiring


async def test_who_may_not_send(path: Path) -> None:
    """Another event loop and a closed store are refused at once."""
    import anyio.to_thread

    async with SQLiteStreamStore(path) as store:
        await store.save(Event("alice", "t"))

        async def elsewhere() -> None:
            with pytest.raises(UsageError, match="another event loop"):
                store.send_ephemeral(sent("alice"))

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
    with pytest.raises(ClosedError):
        store.send_ephemeral(sent("alice"))


async def test_much_is_delivered_in_parts(path: Path) -> None:
    """More than one look takes is taken by the following ones; a reader that is too slow for all gets the last."""
    async with SQLiteStreamStore(path) as store, SQLiteStreamStore(path) as other, other.subscribe("alice") as stream:
        await until(lambda: other.is_receiving)
        for number in range(900):
            store.send_ephemeral(sent("alice", number))
        got: list[int] = []
        while not got or got[-1] != 899:
            got.append((await stream.next(5)).payload)
        assert got == sorted(set(got))
        assert len(got) + stream.dropped == 900
