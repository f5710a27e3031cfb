"""Workers whose event loop ends while a message is being sent; on SQLite, so that the file can be read afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, ClosedError
from notify.dispatch import Accepted, Dispatcher, Job, Outcome, Recipient, State
from notify.dispatch.abc import Delivery, DeliveryAttempt
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import note


class Endless:
    """A channel that never has an answer; it says when it was asked."""

    has_endpoints = False

    def __init__(self, *, deduplicates: bool) -> None:
        self.deduplicates = deduplicates
        self.asked = anyio.Event()

    async def send(self, job: Job) -> Outcome:
        """Wait until cancelled."""
        self.asked.set()
        await anyio.sleep_forever()
        return Accepted()


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    """Know everybody."""
    return [Recipient(each) for each in ids]


async def left_behind(file: Path, channel: Endless) -> str:
    """Return the ticket of a message that is on its way when the main function of the event loop returns."""
    dispatcher = Dispatcher(None, SQLiteDispatchStore(file), [note("email")], {"email": channel}, recipients=recipients)
    ticket = await dispatcher.submit("note", "alice", {"title": "hello"})
    await dispatcher._worker.step(dispatcher._parts.clock())
    await channel.asked.wait()
    return ticket.id


async def outcome(file: Path, ticket: str) -> tuple[Delivery, Sequence[DeliveryAttempt]]:
    """Return what is stored of it."""
    async with SQLiteDispatchStore(file) as store:
        record = await store.record(ticket, "alice")
        assert record is not None
        return record[2][0], record[3]


@pytest.mark.parametrize(("deduplicates", "state"), [(False, State.UNKNOWN), (True, State.WAITING)])
def test_loop_that_ends_leaves_nothing_open(tmp_path: Path, deduplicates: bool, state: State) -> None:
    """What had begun is recorded as unknown at once, not after its lease; where that is recognised it is sent again.

    On asyncio: trio lets nothing begin any more, so there the lease ends first.
    """
    ticket = anyio.run(left_behind, tmp_path / "d.db", Endless(deduplicates=deduplicates))
    found, attempts = anyio.run(outcome, tmp_path / "d.db", ticket)
    assert (found.state, found.reason, found.attempts) == (state, "ambiguous", 1)
    assert [(each.state, each.error) for each in attempts] == [(state, "the worker was stopped")]


def test_run_that_nobody_waits_for(tmp_path: Path) -> None:
    """So it is when the owner of the task that runs the dispatcher returns without waiting for it."""
    channel = Endless(deduplicates=False)

    async def main() -> str:
        store = SQLiteDispatchStore(tmp_path / "d.db")
        dispatcher = Dispatcher(None, store, [note("email")], {"email": channel}, recipients=recipients)
        ticket = await dispatcher.submit("note", "alice", {"title": "hello"})
        running: asyncio.Task[None] = asyncio.create_task(dispatcher.run())
        await channel.asked.wait()
        assert not running.done()
        return ticket.id

    found, _ = anyio.run(outcome, tmp_path / "d.db", asyncio.run(main()))
    assert (found.state, found.reason) == (State.UNKNOWN, "ambiguous")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_outcome_that_is_known_is_stored(tmp_path: Path, anyio_backend: str) -> None:
    """A task that is cancelled after the channel's answer, while that is being stored, stores the answer."""
    store: Any = SQLiteDispatchStore(tmp_path / "d.db")
    advance: Callable[..., Awaitable[Any]] = store.advance
    storing = anyio.Event()

    class Prompt(Endless):
        async def send(self, job: Job) -> Outcome:
            return Accepted("p")

    async def slow(moves: Any, now: Any) -> Any:
        if moves[0].to is State.ACCEPTED and not storing.is_set():
            storing.set()
            await anyio.sleep_forever()
        return await advance(moves, now)

    store.advance = slow
    channel = Prompt(deduplicates=False)
    dispatcher = Dispatcher(None, store, [note("email")], {"email": channel}, recipients=recipients)
    ticket = await dispatcher.submit("note", "alice", {"title": "hello"})
    await dispatcher._worker.step(dispatcher._parts.clock())
    await storing.wait()
    await dispatcher._worker.sender._background.aclose()
    found, _ = await outcome(tmp_path / "d.db", ticket.id)
    assert (found.state, found.provider_id) == (State.ACCEPTED, "p")
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("error", [BackendUnavailableError("down", backend="store"), ClosedError("closed")])
async def test_outcome_that_cannot_be_stored_when_it_stops(
    tmp_path: Path, anyio_backend: str, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """A worker that is stopped while the store is away ends all the same; the delivery stays as if it had died."""
    store: Any = SQLiteDispatchStore(tmp_path / "d.db")
    advance: Callable[..., Awaitable[Any]] = store.advance
    refused: list[State] = []

    async def only_begin(moves: Any, now: Any) -> Any:
        if moves[0].to is State.SENDING:
            return await advance(moves, now)
        refused.append(moves[0].to)
        raise error

    store.advance = only_begin
    channel = Endless(deduplicates=False)
    dispatcher = Dispatcher(None, store, [note("email")], {"email": channel}, recipients=recipients)
    ticket = await dispatcher.submit("note", "alice", {"title": "hello"})
    await dispatcher._worker.step(dispatcher._parts.clock())
    await channel.asked.wait()
    await dispatcher._worker.sender._background.aclose()
    await store.aclose()
    found, attempts = await outcome(tmp_path / "d.db", ticket.id)
    assert (found.state, found.attempts, [*attempts]) == (State.SENDING, 1, [])
    assert refused == [State.UNKNOWN]
    assert "crashed" not in caplog.text
