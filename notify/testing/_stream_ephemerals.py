"""Tests of events that are not stored, and of commands, between the processes that share a stream store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from notify import ClosedError, DisconnectedError, Event, Notifier, Stream, UsageError
from notify.abc import Ephemerals, Forget, ability

from ._samples import HOSTILE_NAMES
from ._store_features import SharedStoreSuite
from ._stream_base import StreamTests
from ._types import StreamStoreT
from ._waits import eventually, numbers, take


class EphemeralsSuite(StreamTests[StreamStoreT], SharedStoreSuite[StreamStoreT]):
    """For a stream store that carries events that are not stored to every process that shares it."""

    @asynccontextmanager
    async def pair(self, store: StreamStoreT) -> AsyncIterator[tuple[Notifier, Notifier]]:
        """Return notifiers of two processes on the same logs."""
        async with self.closing(await self.another(store)) as other:
            async with self.notifier(store) as here, self.notifier(other) as there:
                yield here, there

    async def connect_streams(self, sender: Notifier, *streams: Stream) -> None:
        """Push until each of these streams of one user yields it: until then, delivery is best effort."""
        waiting = {*streams}

        async def read(stream: Stream) -> None:
            assert (await stream.next(self.patience)).type == "warm-up"
            waiting.discard(stream)
            while (await stream.next(self.patience)).type == "warm-up":
                pass

        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(read, stream)
            while waiting:
                await sender.push(streams[0].user, "warm-up", ephemeral=True)
                await anyio.sleep(0.01)
            await sender.push(streams[0].user, "warm", ephemeral=True)

    async def assert_nothing_else(self, store: StreamStoreT, *streams: Stream) -> None:
        """Assert that what is saved next for each of these users is the next that their streams yield."""
        sentinels = {user: await store.save(Event(user, "sentinel")) for user in {stream.user for stream in streams}}
        for stream in streams:
            assert await stream.next(self.patience) == sentinels[stream.user]

    async def test_an_ephemeral_event_reaches_every_process(self, store: StreamStoreT) -> None:
        """In every process, streams of its user yield it once, and those of others do not; it is not stored."""
        async with self.pair(store) as (here, there):
            async with here.subscribe("alice") as near, there.subscribe("alice") as far, there.subscribe("bob") as bob:
                await self.connect_streams(here, near, far)
                await self.connect_streams(there, bob)
                for sender in (here, there):
                    await sender.push("alice", "typing", {"in": "room"}, ephemeral=True)
                    for stream in (near, far):
                        event = await stream.next(self.patience)
                        assert (event.id, event.user, event.type, event.payload) == (
                            "",
                            "alice",
                            "typing",
                            {"in": "room"},
                        )
                await self.assert_nothing_else(store, near, far, bob)
            assert [event.type for event in await self.read_all(store, "alice")] == ["sentinel"]

    async def test_a_broadcast_reaches_every_process(self, store: StreamStoreT) -> None:
        """Every open stream in every process yields a broadcast once."""
        async with self.pair(store) as (here, there):
            async with here.subscribe("alice") as near, there.subscribe("alice") as far, there.subscribe("bob") as bob:
                await self.connect_streams(here, near, far)
                await self.connect_streams(here, bob)
                await here.broadcast("maintenance", {"at": 9})
                for stream in (near, far, bob):
                    event = await stream.next(self.patience)
                    assert (event.id, event.type, event.payload) == ("", "maintenance", {"at": 9})
                await self.assert_nothing_else(store, near, far, bob)

    async def test_ephemeral_events_keep_their_order(self, store: StreamStoreT) -> None:
        """What one process pushes to one user arrives in that order, between stored events of which none is missing."""
        async with self.pair(store) as (here, there), there.subscribe("alice") as far:
            await self.connect_streams(here, far)
            for number in range(40):
                await here.push("alice", "t", number, ephemeral=number % 2 == 0)
            events = await take(far, 40, self.patience)
            assert sorted(numbers(events)) == [*range(40)]
            assert numbers([event for event in events if not event.id]) == [*range(0, 40, 2)]
            assert numbers([event for event in events if event.id]) == [*range(1, 40, 2)]
            assert far.gaps == ()

    async def test_what_was_before_is_not_shown(self, store: StreamStoreT) -> None:
        """A stream that is opened later, in any process, does not yield earlier ephemeral events."""
        async with self.pair(store) as (here, there), there.subscribe("alice") as far:
            await self.connect_streams(here, far)
            await here.push("carol", "typing", ephemeral=True)
            await here.push("alice", "typing", ephemeral=True)
            assert (await far.next(self.patience)).type == "typing"
            async with there.subscribe("alice") as late:
                await self.assert_nothing_else(store, late, far)

            async def assert_carol_sees_nothing() -> None:
                async with there.subscribe("carol") as carol:
                    await self.assert_nothing_else(store, carol)

            # Order is kept for each user: the event for carol may still be on its way, but it comes only once.
            await eventually(assert_carol_sees_nothing, self.patience)

    async def test_large_events(self, store: StreamStoreT) -> None:
        """A payload of 60,000 bytes crosses like any other."""
        async with self.pair(store) as (here, there), there.subscribe("alice") as far:
            await self.connect_streams(here, far)
            await here.push("alice", "big", "x" * 60_000, ephemeral=True)
            assert (await far.next(self.patience)).payload == "x" * 60_000

    async def test_hostile_names(self, store: StreamStoreT) -> None:
        """Whatever users are called, each gets what was pushed to exactly that name."""
        async with self.pair(store) as (here, there):
            streams = {name: there.subscribe(name) for name in HOSTILE_NAMES}
            for name, stream in streams.items():
                await stream.__aenter__()
                await self.connect_streams(here, stream)
                await here.push(name, "t", name, ephemeral=True)
            for name, stream in streams.items():
                assert (await stream.next(self.patience)).payload == name
                await stream.aclose()

    async def test_without_streams_it_costs_nothing(self, store: StreamStoreT) -> None:
        """Where no stream is open, ephemeral events and broadcasts are accepted and lost."""
        async with self.pair(store) as (here, _there):
            event = await here.push("alice", "typing", ephemeral=True)
            assert event is not None
            assert event.id == ""
            assert (await here.broadcast("maintenance")).id == ""
            sender(store).send_ephemeral(event)
        assert await self.read_all(store, "alice") == []

    async def test_forgetting_reaches_every_process(self, store: StreamStoreT) -> None:
        """A user who is forgotten in one process has a gap in the streams of the other, if the store can forget."""
        async with self.pair(store) as (here, there), there.subscribe("alice") as far:
            await self.connect_streams(here, far)
            event = await here.push("alice", "t")
            assert await far.next(self.patience) == event
            if not ability(store, Forget):
                with pytest.raises(UsageError):
                    await here.forget("alice")
                return
            await here.forget("alice")
            with pytest.raises(TimeoutError):
                await far.next(self.prompt)
            assert [gap.reason for gap in far.gaps] == ["expired"]
            new = await here.push("alice", "t")
            assert await far.next(self.patience) == new
            assert len(far.gaps) == 1

    async def test_a_disconnection_reaches_a_process_without_streams(self, store: StreamStoreT) -> None:
        """A process that has no stream of the user yet ends the one that it opens for a `moment` from before."""
        async with self.pair(store) as (here, there):
            moment = await there.moment()
            await here.disconnect("alice", "logged out")

            async def assert_ended() -> None:
                stream = there.subscribe("alice", disconnected_since=moment)
                try:
                    with pytest.raises(DisconnectedError, match="logged out"):
                        await stream.next(self.prompt)
                except TimeoutError:
                    raise AssertionError("the disconnection did not arrive") from None
                finally:
                    await stream.aclose()

            await eventually(assert_ended, self.patience)
            for since in (None, await there.moment()):
                async with there.subscribe("alice", disconnected_since=since) as stream:
                    await self.assert_nothing_else(store, stream)

    async def test_a_closed_store_sends_nothing(self, store: StreamStoreT) -> None:
        """After `aclose`, sending raises ClosedError."""
        sender(store).send_ephemeral(Event("alice", "t"))
        await store.aclose()
        with pytest.raises(ClosedError):
            sender(store).send_ephemeral(Event("alice", "t"))


def sender(store: object) -> Ephemerals:
    """Return the store as one that carries ephemeral events."""
    assert isinstance(store, Ephemerals)
    return store
