"""Logs that outgrow their bounds while no stream is open, crowds that come back at once, and input that is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, StreamStore, UsageError
from notify._stream._reads import CONCURRENT_READS
from notify_memory import MemoryStreamStore
from tests.parts import untraced

from .backends import Backend, Fleet
from .scene import gap_of_each, scene
from .stores import open_store

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

everywhere = pytest.mark.parametrize(
    "backend", ["sqlite", "redis", "redis cluster", "redis xread", "postgres"], indirect=True
)


SLOW: dict[str, Any] = {"pushers": 1, "lanes": 1, "pace": 0.02}
"""So that a reader has begun, and later keeps up, before the log outgrows its bound."""


@everywhere
async def test_a_reader_that_stops_reading(backend: Backend, tmp_path: Path) -> None:
    """Its process keeps nothing for it: it is told of one gap, gets all that is retained, and was never large."""
    async with scene(backend, tmp_path, users=("alice",), store={"max_len": 500}, **SLOW) as at_work:
        (reader,), (slow,) = at_work.readers, at_work.pushers
        await at_work.quiet(10)
        before = int((await reader.ask("memory", "memory")).split()[1])
        reader.tell("pause")
        for _ in range(2):
            at_work.start("push", lanes=20, pace=0.0, size=20_000)
        await at_work.more("ok", 2000)
        after = int((await reader.ask("memory", "memory")).split()[1])
        assert after - before < 20_000  # kilobytes, of the 40,000 that were pushed
        await at_work.pause()
        reader.tell("go")
        await at_work.until(at_work.caught_up, 10, "the rest of the log")
        slow.tell("go")
        await at_work.more("saw", 20)
        verdict = await at_work.judge()
        gap_of_each(at_work, reader, "trimmed")
    assert verdict.yields < verdict.acknowledged - 1000


@everywhere
async def test_a_log_that_was_trimmed_while_its_reader_was_away(backend: Backend, tmp_path: Path) -> None:
    """Who resumes from before what is kept, in a new process, is told `trimmed`, once, and gets the rest."""
    async with scene(backend, tmp_path, store={"max_len": 200}, **SLOW) as at_work:
        (reader,), (slow,) = at_work.readers, at_work.pushers
        await at_work.quiet(10)
        reader.kill()
        at_work.start("push", lanes=5, pace=0.0)
        await at_work.more("ok", 2500)  # Redis trims whole blocks, and some users are quicker than others
        await at_work.pause()
        resumed = at_work.resume(reader)
        await at_work.ready()
        await at_work.quiet(10)
        slow.tell("go")
        await at_work.more("saw", 20)
        verdict = await at_work.judge()
        gap_of_each(at_work, resumed, "trimmed")
    assert verdict.gaps == {"trimmed": len(at_work.users)}


@asynccontextmanager
async def opened(backend: Backend | None) -> AsyncIterator[StreamStore]:
    """A store in this process; None: in memory."""
    store: StreamStore = MemoryStreamStore() if backend is None else open_store(backend.url, backend.fresh_space())
    try:
        yield store
    finally:
        await store.aclose()


@everywhere
async def test_nothing_is_left_of_a_log(backend: Backend) -> None:
    """After a process has trimmed everything, the streams of another one go on, and those that resume are told."""
    space = backend.fresh_space()
    here, there = (open_store(backend.url, space) for _ in range(2))
    try:
        first, last = [await here.save(Event("alice", "n", number)) for number in range(2)]
        async with there.subscribe("alice", first.id) as stream:
            assert await stream.next(5) == last
            assert await here.trim(datetime(2100, 1, 1, tzinfo=UTC)) == 2
            async with there.subscribe("alice", first.id) as resumed, here.subscribe("alice", last.id) as knowing:
                event = await here.save(Event("alice", "n"))
                assert event.prev == last.id
                assert await stream.next(5) == await resumed.next(5) == await knowing.next(5) == event
                assert [gap.reason for gap in resumed.gaps] == ["trimmed"]
                assert not stream.gaps + knowing.gaps
    finally:
        await here.aclose()
        await there.aclose()


USERS, EVENTS, STREAMS = 500, 20, 10_000


@pytest.mark.parametrize("name", ["memory", "sqlite", "redis", "redis cluster", "postgres"])
async def test_ten_thousand_clients_that_come_back_at_once(fleet: Fleet, name: str) -> None:
    """Each gets what it missed, within a minute; the store is read by no more than a few at a time."""
    running = peak = 0
    async with opened(None if name == "memory" else fleet[name]) as store:
        drafts = [Event(f"user{number % USERS}", "n", number // USERS) for number in range(USERS * EVENTS)]
        events: dict[str, list[Event]] = {}
        for start in range(0, len(drafts), 500):
            for event in await store.save_many(drafts[start : start + 500]):  # type: ignore[attr-defined]
                events.setdefault(event.user, []).append(event)
        read = store.read

        async def counting(*arguments: Any) -> Any:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            try:
                return await read(*arguments)
            finally:
                running -= 1

        store.read = counting  # type: ignore[method-assign]
        with untraced():
            async with Notifier(store) as notifier, anyio.create_task_group() as clients:

                async def come_back(number: int) -> None:
                    missed = events[f"user{number % USERS}"][number % EVENTS + 1 :]
                    position = events[f"user{number % USERS}"][number % EVENTS].id
                    async with notifier.subscribe(f"user{number % USERS}", position) as stream:
                        assert [await stream.next() for _ in missed] == missed

                clients.cancel_scope.deadline = anyio.current_time() + 60
                for number in range(STREAMS):
                    clients.start_soon(come_back, number * 7)
        assert not clients.cancel_scope.cancelled_caught
    assert peak <= CONCURRENT_READS


BAD = [
    ("", "n", 1), ("a\0b", "n", 1), ("\ud800", "n", 1), ("x" * 300, "n", 1), (7, "n", 1), ("a\nb", "n", 1),
    ("alice", "", 1), ("alice", "a\r\nevent: b", 1), ("alice", "t" * 200, 1), ("alice", "notify.gap", 1),
    ("alice", "n", "x" * 70_000), ("alice", "n", float("nan")), ("alice", "n", object()), ("alice", "n", "\ud800"),
]  # fmt: skip
FORGED = ["garbage", "-1-0", "1-1-1", "99999999999999999999999-0", "1-x", "\u0661-0", " 1-0", 7]


async def refusals(store: StreamStore) -> list[str]:
    """Return what became of each piece of bad input."""
    found = []
    async with Notifier(store) as notifier:
        for user, type_, payload in BAD:
            with pytest.raises(UsageError) as caught:
                await notifier.push(user, type_, payload)  # type: ignore[arg-type]
            found.append(repr(caught.value))
        for user, *_ in BAD[:6]:
            with pytest.raises(UsageError) as caught:
                notifier.subscribe(user)  # type: ignore[arg-type]
            found.append(repr(caught.value))
        for position in FORGED:
            with pytest.raises(UsageError) as caught:
                await notifier.subscribe("alice", position).next(1)  # type: ignore[arg-type]
            found.append(repr(caught.value))
        assert await store.head("alice") == "0"
        assert (await store.save(Event("alice", "n"))).prev == "0"
    return found


async def test_bad_input_is_refused_alike(fleet: Fleet) -> None:
    """What is no user, type, payload or position is the same error with every backend, and nothing is stored."""
    async with opened(None) as store:
        expected = await refusals(store)
    for name in ("sqlite", "redis", "redis cluster", "redis sentinel", "postgres"):
        async with opened(fleet[name]) as store:
            assert await refusals(store) == expected, name


async def test_positions_ahead_of_the_log(fleet: Fleet) -> None:
    """An id that was made up is a position like others: the reader is told, and the log can be written as before."""
    for name in ("sqlite", "redis", "redis cluster", "redis sentinel", "postgres"):
        async with opened(fleet[name]) as store:
            first = await store.save(Event("alice", "n"))
            for forged in ("18446744073709551615-18446744073709551615", "9999999999999-0"):
                async with store.subscribe("alice", forged) as stream:
                    event = await store.save(Event("alice", "n"))
                    while (await stream.next(5)) != event:
                        pass
                    assert [gap.reason for gap in stream.gaps] == ["rewound"], name
            assert (await store.read("alice", "0", 10)).events[0] == first
