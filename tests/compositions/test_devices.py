"""One user, several devices on several instances: whatever the parts are, everybody gets the same chain, promptly."""

from __future__ import annotations

import anyio
import pytest

from notify import Event, Notifier, Stream
from notify.testing import History

from .conftest import Start
from .places import COMPOSITIONS, Place

pytestmark = pytest.mark.anyio
compositions = pytest.mark.parametrize("composition", COMPOSITIONS)

PUSHES = 30
SECONDS = 10.0
"""Patience with a loaded machine: nothing polls here, so what is not told never comes."""


async def read(history: History, stream: Stream, count: int, start: str | None = None) -> list[Event]:
    """Take so many events and record them."""
    seen: list[Event] = []
    reader = history.reader(stream.user, start)
    with anyio.fail_after(SECONDS):
        while len(seen) < count:
            event = await stream.next()
            reader.event(event, event.payload)
            seen.append(event)
    reader.finished()
    return seen


async def push(history: History, notifier: Notifier, values: range) -> None:
    for value in values:
        with history.pushing("alice", value) as attempt:
            event = await notifier.push("alice", "t", value)
            assert event is not None
            attempt.ok(event.id)


@compositions
async def test_two_instances_and_three_devices(place: Place, start: Start, composition: str) -> None:
    """Both instances and a third one without devices push at once: each device yields the whole log, once, in order."""
    one, two, three = [await start(place, COMPOSITIONS[composition]) for _ in range(3)]
    history = History()
    seen: list[list[Event]] = []

    async def device(stream: Stream) -> None:
        seen.append(await read(history, stream, 3 * PUSHES, "0"))
        with pytest.raises(TimeoutError):
            await stream.next(timeout=0.05)
        assert not stream.gaps

    async with one.subscribe("alice") as a, one.subscribe("alice") as b, two.subscribe("alice") as c:
        async with anyio.create_task_group() as tasks:
            for stream in (a, b, c):
                tasks.start_soon(device, stream)
            for number, notifier in enumerate((one, two, three)):
                tasks.start_soon(push, history, notifier, range(number * PUSHES, (number + 1) * PUSHES))
    assert seen[0] == seen[1] == seen[2]
    history.assert_ok()


@compositions
async def test_a_device_that_moves_to_another_instance(place: Place, start: Start, composition: str) -> None:
    """It resumes there from the id it saw last: what came in between, then live, without a seam."""
    one, two = [await start(place, COMPOSITIONS[composition]) for _ in range(2)]
    history = History()
    async with one.subscribe("alice") as here:
        await push(history, two, range(3))
        *_, last = await read(history, here, 3, "0")
    await push(history, one, range(3, 8))
    async with two.subscribe("alice", here.last_id) as there:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push, history, one, range(8, 12))
            await read(history, there, 9, last.id)
        assert not there.gaps
    history.assert_ok()


@pytest.mark.parametrize("composition", [name for name, parts in COMPOSITIONS.items() if parts.presence is not None])
async def test_absent_users_are_dropped(place: Place, start: Start, composition: str) -> None:
    """With `offline="drop"`, who has a stream on another instance gets the event, and who has none has an empty log."""
    one, two = [await start(place, COMPOSITIONS[composition], offline="drop") for _ in range(2)]
    async with two.subscribe("alice") as stream:
        event = await one.push("alice", "t", 1)
        assert event is not None
        assert await stream.next(timeout=SECONDS) == event
        assert await one.push("bob", "t", 2) is None
        report = await one.push_many(["alice", "bob"], "t", 3)
        assert [*report.events] == ["alice"]
        assert [*report.offline] == ["bob"]
        assert (await stream.next(timeout=SECONDS)).payload == 3
    store = one._store
    assert store is not None
    assert await store.head("bob") == "0"
    assert len((await store.read("alice", "0", 10)).events) == 2
