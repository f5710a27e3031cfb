"""Tests of a stream's life: waiting, timeouts, cancellation, slow readers, and every way to end."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest
from anyio import wait_all_tasks_blocked

from notify import ClosedError, Event, Stream, StreamStore, UsageError, ids

from ._stream_base import StreamTests
from ._types import StreamStoreT
from ._waits import eventually, interrupted, now, take, together


class LifetimeTests(StreamTests[StreamStoreT]):
    """Waiting for events, and the end of streams."""

    async def test_a_saved_event_arrives_promptly(self, store: StreamStore) -> None:
        """A waiting reader has an event as soon as it is saved."""
        async with store.subscribe("alice") as stream:
            for number in range(3):
                await self.assert_arrives(partial(store.save, Event("alice", "t", number)), stream)

    async def test_a_new_stream_is_modest(self, store: StreamStore) -> None:
        """A stream knows its user; nothing was dropped and no gap was met."""
        async with store.subscribe("alice", "0") as stream:
            assert (stream.user, stream.dropped, tuple(stream.gaps)) == ("alice", 0, ())

    async def test_next_gives_up_in_time(self, store: StreamStore) -> None:
        """`next` with a timeout raises TimeoutError at that time, and the following `next` yields the next event."""
        async with store.subscribe("alice") as stream:
            for _ in range(3):
                start = anyio.current_time()
                with pytest.raises(TimeoutError):
                    await stream.next(0.05)
                assert 0.04 < anyio.current_time() - start < 0.05 + self.prompt
                await self.assert_live(stream, store)

    async def test_a_cancelled_next_loses_nothing(self, store: StreamStore) -> None:
        """However often and whenever `next` is cancelled, every event is yielded once, replayed or live."""
        replayed = await self.fill(store, "alice", 20)
        seen: list[Event] = []

        async def read_one(stream: Stream) -> None:
            seen.append(await stream.next())

        async def read(stream: Stream) -> None:
            attempt = 0
            with anyio.fail_after(self.patience):
                while len(seen) < 80:
                    await interrupted(partial(read_one, stream), attempt % 20)
                    attempt += 1

        async with store.subscribe("alice", "0") as stream:
            await together(partial(read, stream), partial(self.fill, store, "alice", 60))
            assert seen == await self.read_all(store, "alice")
            assert seen[:20] == replayed
            await self.assert_live(stream, store)

    async def test_a_second_reader_is_refused(self, store: StreamStore) -> None:
        """While one task waits in `next`, another one gets a UsageError, and the first still gets its event."""
        async with store.subscribe("alice") as stream, anyio.create_task_group() as tasks:
            taken: list[Event] = []

            async def read() -> None:
                taken.extend(await take(stream, 1, self.patience))

            tasks.start_soon(read)
            await wait_all_tasks_blocked()
            with pytest.raises(UsageError):
                await stream.next(self.patience)
            event = await store.save(Event("alice", "t"))

            async def the_first_has_it() -> None:
                assert taken == [event]

            await eventually(the_first_has_it, self.patience)
            await self.assert_live(stream, store)

    async def test_a_paused_reader_delays_no_other(self, store: StreamStore) -> None:
        """While one reader is away, neither saves nor another stream of the same user wait, and nothing is lost."""
        async with store.subscribe("alice") as paused, store.subscribe("alice") as prompt:
            with anyio.fail_after(self.patience):
                events = await self.fill(store, "alice", 300)
            await self.assert_next(prompt, *events)
            await self.assert_next(paused, *events)
            assert (paused.dropped, paused.gaps) == (0, ())
            await self.assert_live(paused, store)

    async def test_nothing_is_skipped_in_silence(self, store: StreamStore) -> None:
        """What is trimmed while its reader is away is yielded anyway or reported as a gap."""
        async with store.subscribe("alice") as stream:
            position = ids.canonical(stream.last_id)
            events = await self.fill(store, "alice", 300)
            await store.trim(events[-3].id)
            last = await store.save(Event("alice", "last"))
            seen: list[Event] = []
            while last not in seen:
                seen.append(await stream.next(self.patience))
            crossed = {gap.end for gap in stream.gaps}
            for event in seen:
                assert event.prev == position or event.prev in crossed
                position = event.id

    async def test_a_closed_stream_yields_nothing(self, store: StreamStore) -> None:
        """After `aclose`, `next` raises ClosedError every time though events wait, and `async for` ends at once."""
        await self.fill(store, "alice", 3)
        stream = store.subscribe("alice", "0")
        await stream.next(self.patience)
        await stream.aclose()
        await stream.aclose()
        await self.assert_closed(stream)

    async def test_a_stream_that_was_never_opened_closes(self, store: StreamStore) -> None:
        """A stream that is closed before its first use cannot be used or entered any more."""
        stream = store.subscribe("alice", "0")
        await stream.aclose()
        await self.assert_closed(stream)
        with pytest.raises(ClosedError):
            await stream.__aenter__()

    async def test_leaving_the_context_closes(self, store: StreamStore) -> None:
        """After `async with`, the stream is closed, whatever happened inside."""
        stream = store.subscribe("alice")
        with pytest.raises(ZeroDivisionError):
            async with stream:
                _ = 1 / 0
        await self.assert_closed(stream)

    async def test_close_wakes_the_reader(self, store: StreamStore) -> None:
        """Closing a stream ends a waiting `next` at once, with ClosedError, and ends a waiting `async for`."""
        for read in (self.read_next, self.read_for):
            stream = store.subscribe("alice", "0")
            async with anyio.create_task_group() as tasks:
                await tasks.start(read, stream)
                await wait_all_tasks_blocked()
                start = anyio.current_time()
                await stream.aclose()
            assert anyio.current_time() - start < self.prompt

    async def test_close_beats_an_event(self, store: StreamStore) -> None:
        """An event that is saved while a reader waits comes before the close or never."""
        for _ in range(10):
            stream = store.subscribe("alice")
            seen: list[Event] = []

            async def read(stream: Stream = stream, seen: list[Event] = seen) -> None:
                seen.extend([event async for event in stream])

            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await wait_all_tasks_blocked()
                event = await store.save(Event("alice", "t"))
                await stream.aclose()
            await self.assert_closed(stream)
            assert seen in ([], [event])

    async def test_break_releases(self, store: StreamStore) -> None:
        """Leaving a bare `async for` with `break`, again and again, leaves no task behind."""
        await self.fill(store, "alice", 3)
        tasks = 0
        for round_ in range(30):
            async for event in store.subscribe("alice", "0"):  # pragma: no branch - it is left by break
                assert event.payload == 0
                break
            if round_ == 0:
                tasks = len(anyio.get_running_tasks())

        async def no_more_tasks() -> None:
            assert len(anyio.get_running_tasks()) <= tasks

        await eventually(no_more_tasks, self.prompt)

    async def test_a_stream_that_opens_while_another_closes(self, store: StreamStore) -> None:
        """However the end of one stream of a user meets the beginning of another one, the new one is live."""
        old = await store.subscribe("alice").__aenter__()
        for steps in range(15):
            new = store.subscribe("alice")
            await together(new.__aenter__, partial(self.close_after, old, steps))
            await self.assert_live(new, store)
            old = new
        await old.aclose()

    async def test_a_cancelled_entry_leaves_nothing(self, store: StreamStore) -> None:
        """Streams that are cancelled while they open or wait leave no task behind, and the store goes on."""
        async with store.subscribe("alice") as stream:
            tasks = len(anyio.get_running_tasks())
            for attempt in range(30):
                await interrupted(partial(self.read_without_events, store), attempt)

            async def no_more_tasks() -> None:
                assert len(anyio.get_running_tasks()) <= tasks

            await eventually(no_more_tasks, self.prompt)
            await self.assert_live(stream, store)

    async def test_closing_the_store_ends_its_streams(self, store: StreamStore) -> None:
        """Closing the store ends waiting readers at once; no stream yields anything after it, and none can be had."""
        await self.fill(store, "alice", 3)
        idle, unopened = store.subscribe("alice", "0"), store.subscribe("alice", "0")
        await idle.next(self.patience)
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.read_next, store.subscribe("alice", None))
            await tasks.start(self.read_for, store.subscribe("bob", None))
            await wait_all_tasks_blocked()
            start = anyio.current_time()
            await store.aclose()
        assert anyio.current_time() - start < self.prompt
        await self.assert_closed(idle)
        await self.assert_closed(unopened)
        with pytest.raises(ClosedError):
            store.subscribe("alice")

    async def test_a_stream_outlives_the_task_that_opened_it(self, store: StreamStore) -> None:
        """A stream that was opened in a task which has ended can be read from another one."""
        stream = store.subscribe("alice")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.__aenter__)
        await self.assert_live(stream, store)
        await stream.aclose()

    async def test_a_log_trimmed_after_reading_is_not_a_gap(self, store: StreamStore) -> None:
        """A reader that has read everything does not notice that it is trimmed."""
        async with store.subscribe("alice") as stream:
            await self.assert_next(stream, *await self.fill(store, "alice", 3))
            await store.trim(now().replace(year=2200))
            await self.assert_live(stream, store)
            assert stream.gaps == ()

    async def close_after(self, stream: Stream, steps: int) -> None:
        """Close a stream after so many scheduling points."""
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        await stream.aclose()

    async def read_without_events(self, store: StreamStore) -> None:
        """Wait for an event of a user without events."""
        async with store.subscribe("unknown", "0") as stream:
            await stream.next()

    async def read_next(self, stream: Stream, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Wait for an event of a stream that will be closed."""
        async with stream:
            task_status.started()
            with pytest.raises(ClosedError), anyio.fail_after(self.patience):
                await stream.next()

    async def read_for(self, stream: Stream, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Loop over a stream that will be closed."""
        async with stream:
            task_status.started()
            with anyio.fail_after(self.patience):
                assert [event async for event in stream] == []

    async def assert_closed(self, stream: Stream) -> None:
        """Assert that the stream yields nothing any more."""
        with anyio.fail_after(self.prompt):
            for _ in range(3):
                with pytest.raises(ClosedError):
                    await stream.next()
            with pytest.raises(ClosedError):
                await stream.next(0.01)
            assert [event async for event in stream] == []
