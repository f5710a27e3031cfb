"""Every schedule gives the same: events once and in order, whoever is cancelled wherever, and nothing is left over."""

from __future__ import annotations

import asyncio
import gc
import os
from functools import partial
from random import Random
from typing import Any

import pytest

from notify import Event, Notifier, Stream, ids
from notify.errors import ClosedError
from notify_memory import MemoryStore

from .loop import run, settle
from .scenarios import KINDS, USER, Small, read, read_on, small
from .stores import SlowStore
from .world import page_size

SEEDS = 1000 if os.environ.get("NOTIFY_HYPOTHESIS_PROFILE") == "nightly" else 200
OPENED_AND_CLOSED = 100_000

kinds = pytest.mark.parametrize("kind", KINDS)


# -- schedules that once went wrong ----------------------------------------------------------------------------------


def test_a_stream_that_joins_a_read_under_way_misses_nothing() -> None:
    """What is pushed after a read began and before another stream joined it reaches that stream at once."""
    run(joined_read)


async def joined_read() -> None:
    async with small("slow", Random(0)) as world:
        assert isinstance(world.store, SlowStore)
        world.append(0)
        world.store.hold("after")
        first, second = world.a.subscribe(USER, "0"), world.a.subscribe(USER, "0")
        got: list[list[int]] = [[], []]
        readers = [asyncio.ensure_future(read(first, got[0], 2))]
        await settle()  # the first stream's page is read and not answered yet
        world.a.deliver(world.append(1))
        readers.append(asyncio.ensure_future(read(second, got[1], 2)))
        await settle()
        world.store.release()
        await asyncio.gather(*readers)
        assert got == [[0, 1], [0, 1]]
        await first.aclose()
        await second.aclose()


def test_what_is_offered_while_a_page_is_read_is_not_taken_for_part_of_it() -> None:
    """Two events are stored after the page was read, only the second is offered: both are yielded."""
    run(offered_meanwhile)


async def offered_meanwhile() -> None:
    async with small("slow", Random(0)) as world:
        assert isinstance(world.store, SlowStore)
        world.append(0)
        world.store.hold("after", "reads")
        stream, got = world.a.subscribe(USER, "0"), list[int]()
        reader = asyncio.ensure_future(read(stream, got, 3))
        await settle()  # the page is read and not answered yet
        world.append(1)
        world.a.deliver(world.append(2))
        world.store.release()
        await reader
        assert got == [0, 1, 2]
        await stream.aclose()


def test_now_is_later_than_what_another_stream_found() -> None:
    """A stream from now on does not begin where an earlier one was told that the log ends."""
    run(shared_head)


async def shared_head() -> None:
    async with small("slow", Random(0)) as world:
        assert isinstance(world.store, SlowStore)
        world.store.hold("after", "reads")
        streams = [world.a.subscribe(USER), world.a.subscribe(USER)]
        opening = [asyncio.ensure_future(streams[0].__aenter__())]
        await settle()  # the head is read and not answered yet
        world.append(1)
        opening.append(asyncio.ensure_future(streams[1].__aenter__()))
        await settle()
        world.store.release()
        await asyncio.gather(*opening)
        assert [stream.last_id for stream in streams] == ["0-0", world.head]
        for stream in streams:
            await stream.aclose()


def test_what_one_stream_has_read_is_not_hidden_from_another() -> None:
    """An event that no offer announced is found for a waiting stream, though a newer stream has read past it."""
    run(hidden_read)


async def hidden_read() -> None:
    async with small("slow", Random(0)) as world:
        waiting, newer = world.a.subscribe(USER), world.a.subscribe(USER)
        got: list[int] = []
        reader = asyncio.ensure_future(read(waiting, got, 1))
        await settle()
        world.append(1)
        await newer.__aenter__()
        assert newer.last_id == world.head
        await world.calm()
        await reader
        assert got == [1]
        await waiting.aclose()
        await newer.aclose()


def test_an_idle_stream_keeps_what_another_has_had() -> None:
    """Ephemeral events wait for a stream without a reader, while another stream of the user waits for them."""
    run(idle_beside_waiting)


async def idle_beside_waiting() -> None:
    async with small("immediate", Random(0)) as world:
        idle, waiting = world.a.subscribe(USER), world.a.subscribe(USER)
        await idle.__aenter__()
        got: list[list[int]] = [[], []]
        reader = asyncio.ensure_future(read(waiting, got[0], 3))
        for value in range(3):
            await settle()
            await world.a.push(USER, "t", value, ephemeral=True)
        await reader
        await read(idle, got[1], 3)
        assert got == [[0, 1, 2], [0, 1, 2]]
        assert idle.dropped == 0
        await idle.aclose()
        await waiting.aclose()


def test_a_reader_that_was_cancelled_does_not_wait_twice() -> None:
    """Ephemeral events wait for a stream without a reader, although the reader of another one was cancelled before."""
    run(cancelled_beside_idle)


async def cancelled_beside_idle() -> None:
    async with small("immediate", Random(0)) as world:
        idle, waiting = world.a.subscribe(USER), world.a.subscribe(USER)
        got: list[list[int]] = [[], []]
        async with idle, waiting:
            await world.a.push(USER, "t", 0, ephemeral=True)
            await read(waiting, got[0], 1)
            cancelled = asyncio.ensure_future(waiting.next())
            await settle()
            cancelled.cancel()
            await asyncio.wait([cancelled])
            reader = asyncio.ensure_future(read(waiting, got[0], 1))
            await settle()
            await world.a.push(USER, "t", 1)
            await reader
            await read(idle, got[1], 2)
        assert got == [[0, 1], [0, 1]]


def test_what_came_before_a_stream_opened_was_not_dropped_by_it() -> None:
    """Without a store too, `dropped` counts from the opening on."""

    async def main() -> None:
        notifier = Notifier(None, buffer_size=2)
        first = notifier.subscribe(USER)
        await first.__aenter__()
        log = [Event(USER, "t", n).stored(f"{n}-0", f"{n - 1}-0" if n > 1 else ids.ZERO) for n in range(1, 6)]
        for event in log[:4]:
            notifier.deliver(event)
        second = notifier.subscribe(USER)
        await second.__aenter__()
        notifier.deliver(log[4])
        assert [(await second.next()).payload, second.dropped] == [5, 0]
        assert [(await first.next()).payload, first.dropped] == [4, 3]
        await notifier.aclose()

    run(main)


def test_an_audit_finds_more_than_a_buffer_holds() -> None:
    """However much another process has written, one look is enough."""
    run(long_absence)


async def long_absence() -> None:
    async with small("batching", Random(0)) as world:
        stream = world.a.subscribe(USER)
        got: list[int] = []
        reader = asyncio.ensure_future(read(stream, got, 300))
        await settle()
        for value in range(300):
            world.append(value)
        await world.calm()
        await reader
        assert got == list(range(300))
        await stream.aclose()


def test_a_cancelled_first_next_fixes_the_position() -> None:
    """What is stored after the head was read for a bare `next` that has been cancelled is not missed."""
    run(cancelled_opening)


async def cancelled_opening() -> None:
    async with small("slow", Random(0)) as world:
        assert isinstance(world.store, SlowStore)
        world.store.hold("after", "reads")
        stream = world.a.subscribe(USER)
        task = asyncio.ensure_future(stream.next())
        await settle()  # the head is read and not answered yet
        task.cancel()
        await asyncio.wait([task])
        world.append(1)
        world.store.release()
        await settle()
        assert world.a.statistics().open_streams == 0
        assert (await stream.next()).payload == 1
        await stream.aclose()


@kinds
def test_a_page_in_hand_survives_a_cancelled_next(kind: str) -> None:
    """Wherever a bare `next` is cancelled, the following ones yield every event and the one `notify.sync`."""
    run(partial(page_in_hand, kind))


async def page_in_hand(kind: str = "slow") -> None:
    async with small(kind, Random(0)) as world:
        world.append(1)
        for steps in range(20):
            stream = world.a.subscribe(USER, "0", signals=True)
            task = asyncio.ensure_future(stream.next())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            types = [] if task.cancelled() else [task.result().type]
            while len(types) < 2:
                types.append((await stream.next()).type)
            assert types == ["t", "notify.sync"]
            await stream.aclose()


# -- shuffled schedules ----------------------------------------------------------------------------------------------


@kinds
def test_replay_then_live_in_any_order(kind: str) -> None:
    """Two notifiers, a lossy wire, pushes, cancelled readers: over many seeds everybody gets the log, once."""
    for seed in range(SEEDS):
        replay_then_live(kind, seed)


def replay_then_live(kind: str, seed: int) -> None:
    """Run one seed."""
    random = Random(f"{kind} {seed}")

    async def main() -> None:
        async with small(kind, random) as world:
            await _everything_at_once(world, random)

    with page_size(random.choice([1, 2, 3, 500])):
        run(main, seed)


async def _everything_at_once(world: Small, random: Random) -> None:
    for value in range(random.randrange(6)):
        world.append(value)
    known = world.log
    positions = [ids.ZERO, *(event.id for event in world.inner.read_nowait(USER, ids.ZERO, 100).events)]
    streams: list[tuple[Stream, list[int], int | None]] = []
    tasks: list[asyncio.Future[Any]] = []

    def open_one() -> None:
        skip = random.choice([None, *range(len(known) + 1)])
        position = None if skip is None else positions[skip]
        stream = random.choice([world.a, world.b]).subscribe(USER, position)
        streams.append((stream, [], skip))
        tasks.append(asyncio.ensure_future(read_on(stream, streams[-1][1], random, cancels=8)))

    async def push(notifier: Notifier, first: int) -> None:
        for value in range(first, first + 4):
            await notifier.push(USER, "t", value)
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)

    async def disturb() -> None:
        for _ in range(30):
            await asyncio.sleep(0)
            if world.wire and random.random() < 0.6:
                source, event = world.wire.pop(random.randrange(len(world.wire)))
                for _ in range(random.randrange(3)):
                    (world.b if source == "A" else world.a).deliver(event)
            if random.random() < 0.1:
                await random.choice([world.a, world.b])._live._catch_up.audit()
            if random.random() < 0.1:
                open_one()

    for _ in range(3):
        open_one()
    await asyncio.gather(push(world.a, 100), push(world.b, 200), push(world.a, 300), disturb())
    await world.calm()
    for stream, got, skip in streams:
        assert stream.last_id == world.head
        await stream.aclose()
        expected = world.log[skip:] if skip is not None else world.log[len(world.log) - len(got) :]
        assert got == expected
    await asyncio.gather(*tasks)


# -- crowds ----------------------------------------------------------------------------------------------------------


def test_a_thousand_readers_cancelled_at_once_lose_nothing() -> None:
    """After a mass cancellation each stream yields the next event, and nothing is left waiting."""
    run(mass_cancellation)


async def mass_cancellation() -> None:
    async with small("slow", Random(7)) as world:
        streams = [world.a.subscribe(USER) for _ in range(1000)]
        for stream in streams:
            await stream.__aenter__()
        readers = [asyncio.ensure_future(stream.next()) for stream in streams]
        await settle()
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        assert not world.a._live._hub.users[USER].waiting
        await world.a.push(USER, "t", 1)
        assert [(await stream.next()).payload for stream in streams] == [1] * 1000
        for stream in streams:
            await stream.aclose()
        assert not world.a._live.positions()


def test_a_stream_that_opens_while_another_closes_gets_the_next_push() -> None:
    """A hundred thousand times, in each order, with and without a reader that waits: no stream is orphaned."""
    asyncio.run(open_and_close(OPENED_AND_CLOSED))


async def open_and_close(times: int) -> None:
    random = Random(8)
    notifier = Notifier(MemoryStore(max_len=4, max_age=None), poll_interval=3600)
    old = notifier.subscribe(USER)
    await old.__aenter__()
    for value in range(times):
        way = random.randrange(4)
        reader = asyncio.ensure_future(old.next()) if way == 3 else None
        if reader is not None:
            await asyncio.sleep(0)
        new = notifier.subscribe(USER)
        opening = new.__aenter__()
        if way == 0:
            await old.aclose()
            await opening
        elif way == 1:
            await opening
            del old
        else:
            await opening
            await old.aclose()
        await notifier.push(USER, "t", value)
        assert (await new.next()).payload == value
        if reader is not None:
            with pytest.raises(ClosedError):
                await reader
        old = new
    assert notifier.statistics().open_streams == 1
    await notifier.aclose()


@pytest.mark.parametrize("kind", ["slow", "batching"])
def test_streams_that_open_and_close_between_reads_get_the_next_push(kind: str) -> None:
    """The same where opening takes several steps, in shuffled order."""
    for seed in range(SEEDS):
        open_and_close_slowly(kind, seed)


def open_and_close_slowly(kind: str, seed: int) -> None:
    """Run one seed."""
    random = Random(f"{kind} {seed}")

    async def main() -> None:
        async with small(kind, random) as world:
            for value in range(10):
                old, new = world.a.subscribe(USER), world.a.subscribe(USER)
                await old.__aenter__()

                async def close(stream: Stream = old) -> None:
                    for _ in range(random.randrange(8)):
                        await asyncio.sleep(0)
                    await stream.aclose()

                await asyncio.gather(close(), new.__aenter__())
                await world.a.push(USER, "t", value)
                assert (await new.next()).payload == value
                await new.aclose()
                assert not world.a._live.positions()

    run(main, seed)


def test_dropped_streams_are_gone_without_the_collector() -> None:
    """A stream whose last reference goes is closed at once, read or unread, opened or opening."""

    async def main() -> None:
        async with small("slow", Random(9)) as world:
            gc.disable()
            try:
                for position in (None, ids.ZERO):
                    world.append(0)
                    stream = world.a.subscribe(USER, position)
                    await stream.__aenter__()
                    del stream
                    assert not world.a._live.positions()
                    stream = world.a.subscribe(USER, position)
                    opening = asyncio.ensure_future(stream.next())
                    await asyncio.sleep(0)
                    opening.cancel()
                    await asyncio.wait([opening])
                    del stream, opening
                    assert not world.a._live.positions()
            finally:
                gc.enable()

    run(main)
