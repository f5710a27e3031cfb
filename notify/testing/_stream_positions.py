"""Tests of where a stream starts, and of the way from replay to live."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import Event, Gap, InvalidEventIdError, StreamStore, ids

from ._samples import BAD_IDS, HOSTILE_DATA, HOSTILE_META, HOSTILE_NAMES
from ._stream_base import StreamTests
from ._types import StreamStoreT
from ._waits import assert_chain, now, numbers, take, together


class PositionTests(StreamTests[StreamStoreT]):
    """Positions, replay, gaps and the seam."""

    async def test_no_position_means_from_now_on(self, store: StreamStore) -> None:
        """A stream without a position yields nothing that was stored before it was entered, and everything after."""
        await self.fill(store, "alice", 3)
        for position in (None, ""):
            async with store.subscribe("alice", position) as stream:
                await self.assert_live(stream, store)

    async def test_now_is_when_the_stream_is_entered(self, store: StreamStore) -> None:
        """What is stored after entering a stream is yielded, though the next event was not asked for yet."""
        head = (await self.fill(store, "alice", 3))[-1].id
        async with store.subscribe("alice") as stream:
            assert stream.last_id == head
            await self.assert_next(stream, *await self.fill(store, "alice", 3))

    async def test_now_is_the_first_next(self, store: StreamStore) -> None:
        """A stream that is not entered starts with its first `next`: what was stored before is not yielded."""
        stream = store.subscribe("alice")
        await self.fill(store, "alice", 3)
        while not stream.last_id:  # the position is fixed as soon as the store has answered
            with pytest.raises(TimeoutError):
                await stream.next(0.05)
        await self.assert_live(stream, store)
        await stream.aclose()

    async def test_now_can_be_resumed(self, store: StreamStore) -> None:
        """The position of a stream that has yielded nothing yet resumes with what was stored in between."""
        await self.fill(store, "alice", 2)
        async with store.subscribe("alice") as stream:
            position = stream.last_id
        missed = await self.fill(store, "alice", 2)
        async with store.subscribe("alice", position) as stream:
            await self.assert_next(stream, *missed)

    async def test_zero_means_everything(self, store: StreamStore) -> None:
        """A stream from `"0"` yields the whole log in order, then goes on live; no gap is reported."""
        events = await self.fill(store, "alice", 3)
        async with store.subscribe("alice", "0") as stream:
            await self.assert_next(stream, *events)
            await self.assert_live(stream, store)
            assert stream.gaps == ()

    async def test_zero_of_an_unknown_user(self, store: StreamStore) -> None:
        """A stream of a user who has no log yet waits, and yields the first event."""
        async with store.subscribe("alice", "0") as stream:
            await self.assert_arrives(partial(store.save, Event("alice", "t")), stream)
            assert stream.gaps == ()

    async def test_zero_of_a_trimmed_log(self, store: StreamStore) -> None:
        """A stream from `"0"` yields what is retained; what was trimmed before is not a gap."""
        events = await self.fill(store, "alice", 4)
        await store.trim(events[2].id)
        async with store.subscribe("alice", "0") as stream:
            await self.assert_next(stream, *events[2:])
            assert stream.gaps == ()

    async def test_an_empty_log_has_a_position_of_its_own(self, store: StreamStore) -> None:
        """The position in an empty log is `"0-0"`: it resumes with all later events, or a gap where some are gone."""
        async with store.subscribe("alice") as stream:
            position = stream.last_id
        assert position == "0-0"
        events = await self.fill(store, "alice", 4)
        async with store.subscribe("alice", position) as stream:
            assert stream.last_id == position
            await self.assert_next(stream, *events)
            assert stream.gaps == ()
        await store.trim(events[2].id)
        async with store.subscribe("alice", position) as stream:
            await self.assert_next(stream, *events[2:])
            assert [(gap.reason, gap.end) for gap in stream.gaps] == [("trimmed", events[1].id)]

    async def test_an_id_means_everything_after_it(self, store: StreamStore) -> None:
        """A stream from an event yields those after it; from the last one, only what is new."""
        events = await self.fill(store, "alice", 4)
        for index, event in enumerate(events):
            async with store.subscribe("alice", event.id) as stream:
                assert await take(stream, 3 - index, self.patience) == events[index + 1 :]
        async with store.subscribe("alice", events[3].id) as stream:
            await self.assert_live(stream, store)
            assert stream.gaps == ()

    async def test_a_time_means_everything_since(self, store: StreamStore) -> None:
        """A stream from a time yields what was stored at that millisecond or later."""
        events = await self.fill_over_time(store, "alice")
        moment = ids.time_of(events[-1].id)
        since = [event for event in events if ids.time_of(event.id) >= moment]
        async with store.subscribe("alice", moment) as stream:
            await self.assert_next(stream, *since)
        async with store.subscribe("alice", moment - timedelta(days=1)) as stream:
            await self.assert_next(stream, *events)
            await self.assert_live(stream, store)
            assert stream.gaps == ()

    async def test_what_is_no_position_is_refused(self, store: StreamStore) -> None:
        """Garbage, a time without zone or before 1970 and other types raise InvalidEventIdError at once."""
        others: list[Any] = [datetime(2024, 1, 1), datetime.fromisoformat("1969-12-31T00:00:00+00:00"), 0, 1.5, b"0"]
        for garbage in (*BAD_IDS, *others):
            with pytest.raises(InvalidEventIdError):
                store.subscribe("alice", garbage)

    async def test_a_position_may_be_spelled_with_zeros(self, store: StreamStore) -> None:
        """Leading zeros do not change an id."""
        events = await self.fill(store, "alice", 3)
        ms, sequence = ids.parse(events[1].id)
        async with store.subscribe("alice", f"0{ms}-00{sequence}") as stream:
            await self.assert_next(stream, events[2])
            assert stream.gaps == ()

    async def test_a_trimmed_position_tells_a_gap(self, store: StreamStore) -> None:
        """A stream from an id that the log does not reach back to reports the gap, yields what is left, goes on."""
        events = await self.fill(store, "alice", 6)
        await store.trim(events[3].id)
        async with store.subscribe("alice", events[0].id) as stream:
            await self.assert_next(stream, *events[3:])
            await self.assert_live(stream, store)
            assert stream.gaps == (Gap("trimmed", events[0].id, events[2].id),)

    async def test_a_position_trimmed_empty_tells_a_gap(self, store: StreamStore) -> None:
        """A stream from an id whose log was trimmed empty reports the gap, then goes on live."""
        events = await self.fill(store, "alice", 3)
        await store.trim(now() + timedelta(days=1))
        async with store.subscribe("alice", events[0].id) as stream:
            await self.assert_live(stream, store)
            assert stream.gaps == (Gap("trimmed", events[0].id, events[2].id),)

    async def test_a_position_ahead_of_the_log_tells_a_gap(self, store: StreamStore) -> None:
        """A stream from an id ahead of the log reports that it was rewound, yields all that is left, and goes on."""
        events = await self.fill(store, "alice", 3)
        ahead = ids.format(ids.parse(events[-1].id)[0] + 3_600_000, 0)
        async with store.subscribe("alice", ahead) as stream:
            await self.assert_next(stream, *events)
            await self.assert_live(stream, store)
            assert [(gap.reason, gap.start) for gap in stream.gaps] == [("rewound", ahead)]

    async def test_a_position_in_a_forgotten_log_tells_a_gap(self, store: StreamStore) -> None:
        """A stream from an id in a log that does not exist reports the gap `expired`, and is live."""
        position = ids.format(int(now().timestamp() * 1000) - 1000, 5)
        async with store.subscribe("alice", position) as stream:
            await self.assert_live(stream, store)
            assert [(gap.reason, gap.start) for gap in stream.gaps] == [("expired", position)]

    async def test_a_huge_position_is_not_special(self, store: StreamStore) -> None:
        """The greatest id there is does not make a log unreadable or unwritable."""
        events = await self.fill(store, "alice", 2)
        async with store.subscribe("alice", ids.format((1 << 64) - 1, (1 << 64) - 1)) as stream:
            await self.assert_next(stream, *events)
            await self.assert_live(stream, store)

    async def test_every_last_id_resumes(self, store: StreamStore) -> None:
        """A reader that leaves after each event and comes back with `last_id` sees every event once."""
        events = await self.fill(store, "alice", 10)
        position = "0"
        seen = []
        for _ in range(10):
            async with store.subscribe("alice", position) as stream:
                seen.append(await stream.next(self.patience))
                position = stream.last_id
        assert seen == events

    async def test_a_long_backlog_arrives_whole(self, store: StreamStore) -> None:
        """More missed events than any page or buffer holds arrive in order, before what is stored during the replay."""
        first = await store.save(Event("alice", "n", 0))
        await self.fill(store, "alice", 900)
        async with store.subscribe("alice", first.id) as stream:
            await stream.next(self.patience)
            await self.fill(store, "alice", 90)
            events = await take(stream, 989, self.patience)
            assert numbers(events) == [*range(1, 900), *range(90)]
            assert_chain(events, start=events[0].prev)

    async def test_replay_and_live_have_no_seam(self, store: StreamStore) -> None:
        """While others save without pause, streams that start at any moment yield a chain without hole or duplicate."""

        async def read(delay: int) -> None:
            for _ in range(delay):
                await anyio.lowlevel.checkpoint()
            async with store.subscribe("alice", "0") as stream:
                await self.assert_whole(stream, 200)
                assert stream.gaps == ()

        writers = [partial(self.fill, store, "alice", 50) for _ in range(4)]
        await together(*writers, *(partial(read, delay) for delay in range(0, 60, 5)))

    async def test_live_streams_yield_a_chain(self, store: StreamStore) -> None:
        """Ten live streams each yield all events of concurrent writers once, in log order."""
        entered = anyio.Semaphore(0)
        logs: list[list[Event]] = []

        async def read() -> None:
            async with store.subscribe("alice") as stream:
                entered.release()
                logs.append(await self.assert_whole(stream, 100))

        async def write() -> None:
            for _ in range(10):
                await entered.acquire()
            await together(*(partial(self.fill, store, "alice", 25) for _ in range(4)))

        await together(write, *[read] * 10)
        assert logs == [await self.read_all(store, "alice")] * 10

    async def test_streams_yield_their_user_only(self, store: StreamStore) -> None:
        """However alike two user ids are, each stream yields the events of its own user, replayed and live."""
        users = HOSTILE_NAMES[::3]
        streams = {user: store.subscribe(user, "0") for user in users}
        for user in users:
            await store.save(Event(user, "t", ["replayed", user]))
        for user, stream in streams.items():
            assert (await stream.next(self.patience)).payload == ["replayed", user]
        for user in users:
            await store.save(Event(user, "t", ["live", user]))
        for user, stream in streams.items():
            assert (await stream.next(self.patience)).payload == ["live", user]
            assert stream.user == user
            await stream.aclose()

    async def test_streams_yield_what_was_stored(self, store: StreamStore) -> None:
        """Live and replayed events equal the stored ones in every field and byte, up to 64 KiB."""
        async with store.subscribe("alice") as stream:
            for data in HOSTILE_DATA:
                draft = Event("alice", "t", data=data, key=data[:9].hex(), group="{g}", meta=HOSTILE_META)
                event = await store.save(draft)
                live = await stream.next(self.patience)
                assert live == event == draft.stored(event.id, event.prev)
        async with store.subscribe("alice", "0") as stream:
            assert await take(stream, len(HOSTILE_DATA), self.patience) == await self.read_all(store, "alice")

    async def test_a_repeated_key_is_yielded_once(self, store: StreamStore) -> None:
        """Saving with a key that was used yields nothing new."""
        async with store.subscribe("alice") as stream:
            event = await store.save(Event("alice", "t", key="k"))
            await store.save(Event("alice", "t", key="k"))
            await self.assert_next(stream, event)
            await self.assert_live(stream, store)
