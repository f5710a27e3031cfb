"""Outages of stores and stream stores: what they raise, what they have stored, and how their streams heal."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import pytest

from notify import (
    BackendError,
    BackendUnavailableError,
    Event,
    PushRejectedError,
    PushUncertainError,
    Stream,
    StreamStore,
    ids,
)
from notify.abc import Liveness

from ._outage_base import OutageSuite
from ._store_base import StoreTests
from ._stream_base import StreamTests
from ._types import StoreT, StreamStoreT
from ._waits import assert_chain, eventually, numbers, take, together, within

_SAVES: Final = 20


class StoreOutageSuite(StoreTests[StoreT], OutageSuite[StoreT]):
    """For a store whose server may go away."""

    async def test_a_save_in_an_outage_has_a_verdict(self, store: StoreT) -> None:
        """A save during an outage raises PushRejectedError or PushUncertainError, in time; after it, saves work."""
        for begin in self.faults:
            await self.works(partial(store.save, Event("alice", "t")), "save()")
            async with self.outage(store, begin):
                for _ in range(2):
                    save = partial(store.save, Event("alice", "t"))
                    await self.raises(save, "save()", PushRejectedError, PushUncertainError)
        await self.works(partial(store.save, Event("alice", "t")), "save()")

    async def test_a_read_in_an_outage_is_unavailable(self, store: StoreT) -> None:
        """Reads, heads and trims during an outage raise BackendUnavailableError, in time; after it, they work."""
        event = await self.works(partial(store.save, Event("alice", "t", key="k")), "save()")
        async with self.outage(store, self.interrupt):
            for user in ("alice", "unknown"):
                await self.raises(partial(store.read, user, "0", 10), "read()", BackendUnavailableError)
                await self.raises(partial(store.head, user), "head()", BackendUnavailableError)
            await self.raises(partial(store.trim, "1-1"), "trim()", BackendUnavailableError)
        page = await self.works(partial(store.read, "alice", "0", 10), "read()")
        assert [*page.events] == [event]
        assert await self.works(partial(store.head, "alice"), "head()") == event.id

    async def test_a_verdict_is_true(self, store: StoreT) -> None:
        """What was returned before, during or after an outage is stored once; what was rejected is not stored."""
        verdicts: dict[int, object] = {}

        async def save(number: int) -> None:
            for _ in range(number % _SAVES):
                await anyio.lowlevel.checkpoint()
            try:
                verdicts[number] = await store.save(Event("alice", "t", number))
            except (PushRejectedError, PushUncertainError) as error:
                verdicts[number] = error

        for round_, begin in enumerate(self.faults):
            await self.works(partial(store.save, Event("alice", "t")), "save()")
            saves = [partial(save, round_ * _SAVES + number) for number in range(_SAVES)]
            async with anyio.create_task_group() as tasks:
                for each in saves[: _SAVES // 2]:
                    tasks.start_soon(each)
                await anyio.lowlevel.checkpoint()
                async with self.outage(store, begin):
                    with within(2 * self.detection, "saves to return or raise during the outage"):
                        await together(*saves[_SAVES // 2 :])
        log = await self.works(partial(self.read_all, store, "alice"), "read()")
        assert_chain(log)
        stored = [number for number in numbers(log) if number is not None]
        rejected = {number for number, verdict in verdicts.items() if isinstance(verdict, PushRejectedError)}
        assert not rejected.intersection(stored), "save() raised PushRejectedError for what is stored"
        assert len(set(stored)) == len(stored), "one save() has stored its event more than once"
        for number, verdict in verdicts.items():
            assert not isinstance(verdict, Event) or verdict in log, f"what save() returned for {number} is not stored"

    async def test_a_key_stores_once_across_outages(self, store: StoreT) -> None:
        """A save with a key that is repeated until it succeeds is stored once, whatever became of the first one."""
        events: list[Event] = []
        for number, begin in enumerate(self.faults):
            draft = Event("alice", "t", number, key=f"k{number}")
            await self.works(partial(store.head, "alice"), "head()")
            async with self.outage(store, begin):
                await self.raises(partial(store.save, draft), "save()", PushRejectedError, PushUncertainError)
            events.append(await self.works(partial(store.save, draft), "save()"))
            assert await self.works(partial(store.save, draft), "save()") == events[-1]
        assert await self.works(partial(self.read_all, store, "alice"), "read()") == events


class StreamStoreOutageSuite(StreamTests[StreamStoreT], StoreOutageSuite[StreamStoreT]):
    """For a stream store whose server may go away: includes `StoreOutageSuite`."""

    async def test_streams_heal(self, store: StreamStoreT) -> None:
        """An open stream survives outages and yields all that is saved before, during and after them, in order."""
        async with self.outside(store) as other:
            for round_, begin in enumerate(self.faults):
                stream = await self.opened(store)
                async with stream:
                    for number in range(3):
                        draft = Event("alice", "t", "before", key=f"{round_}-{number}")
                        event = await self.works(partial(other.save, draft), "save()")
                        assert await take(stream, 1, self.patience) == [event]
                    async with self.outage(store, begin):
                        with pytest.raises(TimeoutError):
                            await stream.next(0.1)
                        await self.save_somehow(other)
                    for _ in range(3):
                        await self.works(partial(other.save, Event("alice", "t", "after")), "save()")
                    await self.assert_catches_up(other, stream)

    async def test_what_was_refused_is_not_yielded(self, store: StreamStoreT) -> None:
        """A save that raised during an outage is yielded only if it turns out to be stored."""
        for begin in self.faults:
            stream = await self.opened(store)
            async with stream:
                async with self.outage(store, begin):
                    await self.save_somehow(store)
                await self.works(partial(store.save, Event("alice", "t", "after")), "save()")
                await self.assert_catches_up(store, stream)

    async def test_a_stream_cannot_open_in_an_outage(self, store: StreamStoreT) -> None:
        """A stream from now on that is entered during an outage raises BackendUnavailableError, in time."""
        await self.works(partial(store.save, Event("alice", "t")), "save()")
        async with self.outage(store, self.interrupt):
            for user in ("alice", "unknown"):
                stream = store.subscribe(user)
                await self.raises(stream.__aenter__, "entering a stream", BackendUnavailableError)
                await stream.aclose()
        async with await self.opened(store) as stream:
            await self.assert_live(stream, store)

    async def test_liveness_follows_an_outage(self, store: StreamStoreT) -> None:
        """Where the store has `is_receiving`, that is True before an outage, False in it, and True after it."""
        receiving: object = store
        if not isinstance(receiving, Liveness):
            return

        async def assert_receiving(expected: bool, when: str) -> None:
            assert receiving.is_receiving is expected, f"is_receiving is {not expected} {when} the outage"

        async with store.subscribe("alice"):
            for begin in self.faults:
                await eventually(partial(assert_receiving, True, "before"), self.recovery)
                async with self.outage(store, begin):
                    await eventually(partial(assert_receiving, False, "in"), self.detection)
            await eventually(partial(assert_receiving, True, "after"), self.recovery)

    async def opened(self, store: StreamStoreT) -> Stream:
        """Return an open stream, as soon as that is possible."""

        async def enter() -> Stream:
            return await store.subscribe("alice").__aenter__()

        return await self.works(enter, "entering a stream")

    async def save_somehow(self, store: StreamStore) -> None:
        """Save a few events during an outage, which may refuse some."""
        for number in range(3):
            with within(self.detection, "save() to return or raise"), suppress(BackendError):
                await store.save(Event("alice", "t", number))

    async def assert_catches_up(self, store: StreamStore, stream: Stream) -> None:
        """Assert that the stream yields the rest of the log, soon and without a gap."""
        rest = await self.works(partial(self.read_all, store, "alice", ids.canonical(stream.last_id)), "read()")
        assert await take(stream, len(rest), self.recovery) == rest
        assert stream.gaps == ()
