"""`LeasedPresence`: a tracker of three methods over a store of entries that expire, here a dict on a common board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import BackendUnavailableError, ClosedError, Notifier, RoutingInfo, UsageError
from notify.adapters import LeasedPresence
from notify.testing.presence import LeasedPresenceSuite, PresenceSuite
from notify_memory import MemoryStore
from tests.parts import until

A, B = RoutingInfo("a", {"host": "1"}), RoutingInfo("b", {"host": "2"})

Board = dict[tuple[str, str], tuple[float, Sequence[RoutingInfo]]]


class BoardPresence(LeasedPresence):
    """Entries on a board: a value for each user and tracker, with the time at which it expires."""

    ttl = 0.3

    def __init__(self, board: Board, **options: Any) -> None:
        super().__init__(**options)
        self.board = board
        self.busy: set[str] = set()
        self.most_busy = 0
        self.hanging = False
        self.failing: set[str] = set()
        self.error: BaseException = OSError("no route")

    async def put(self, user: str, routes: Sequence[RoutingInfo]) -> None:
        assert routes
        await self.call(user)
        self.board[user, self.tracker_id] = (time.monotonic() + self.ttl, routes)

    async def drop(self, user: str) -> None:
        await self.call(user)
        self.board.pop((user, self.tracker_id), None)

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await self.call("")
        found: dict[str, list[RoutingInfo]] = {}
        for (user, _), (until_, routes) in self.board.items():
            if user in users and until_ > time.monotonic():
                found.setdefault(user, []).extend(routes)
        return found

    async def call(self, user: str) -> None:
        """Wait as a driver would; never for the same user twice at the same time."""
        assert not user or user not in self.busy
        self.busy.add(user)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            await anyio.lowlevel.checkpoint()
            if self.hanging:
                await anyio.sleep_forever()
            if user in self.failing:
                raise self.error
        finally:
            self.busy.discard(user)


class TestBoardPresence(PresenceSuite, LeasedPresenceSuite):
    ttl = BoardPresence.ttl

    async def make(self) -> BoardPresence:
        return BoardPresence({})

    async def another(self, tracker: BoardPresence) -> BoardPresence:  # type: ignore[override]
        return BoardPresence(tracker.board)

    async def crash(self, tracker: BoardPresence) -> None:  # type: ignore[override]
        await tracker.abandon()

    async def lose_leases(self, tracker: BoardPresence) -> None:  # type: ignore[override]
        for key in [key for key in tracker.board if key[1] == tracker.tracker_id]:
            del tracker.board[key]


pytestmark = pytest.mark.anyio


def test_options_are_checked() -> None:
    """A time that cannot work is refused by the constructor; the class says what is the default."""
    for options in ({"ttl": 0}, {"ttl": -1.0}, {"timeout": 0}):
        with pytest.raises(UsageError, match=next(iter(options))):
            BoardPresence({}, **options)
    assert BoardPresence({}).ttl == 0.3
    assert BoardPresence({}, ttl=9.0).ttl == 9.0


async def test_two_names_of_one_tracker_are_not_confused() -> None:
    """Trackers know their own entries again, whatever the instance: what is released is gone before it is dropped."""
    board: Board = {}
    async with BoardPresence(board) as here, BoardPresence(board) as there:
        mine, _ = await here.register("alice", A), await there.register("alice", A)
        (await here.register("bob", B)).release()
        assert await here.locate(["bob"]) == {}
        mine.release()
        assert await here.locate(["alice"]) == {"alice": [A]} == await there.locate(["alice"])
        assert {"notify.tracker"} < {*board["alice", there.tracker_id][1][0].metadata}


async def test_many_are_put_at_the_same_time() -> None:
    """A hundred users are put a bounded number at a time, and dropped so when the tracker closes."""
    board: Board = {}
    async with BoardPresence(board, ttl=30.0) as tracker:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(tracker.register, f"user{number}", A)
        assert len(board) == 100
        assert 2 <= tracker.most_busy <= 16
    assert board == {}


async def test_a_store_that_fails() -> None:
    """What put, drop and fetch raise is a BackendUnavailableError with the cause, and is made good afterwards."""
    async with BoardPresence({}) as tracker:
        gone = await tracker.register("gone", A)
        tracker.failing = {"alice", "gone", ""}
        for call in (partial(tracker.register, "alice"), partial(tracker.locate, ["alice"])):
            with pytest.raises(BackendUnavailableError, match="BoardPresence did not answer: OSError") as caught:
                await call()
            assert isinstance(caught.value.__cause__, OSError)
        await gone.aclose()
        assert [user for user, _ in tracker.board] == ["gone"]
        tracker.failing.clear()
        await until(lambda: not tracker.board)


async def test_a_store_whose_driver_is_cancelled() -> None:
    """A CancelledError from put, drop or fetch, though no task here was cancelled, is a failed call like any other."""
    async with BoardPresence({}) as tracker:
        gone = await tracker.register("gone", A)
        tracker.failing, tracker.error = {"alice", "gone", ""}, asyncio.CancelledError()
        for call in (partial(tracker.register, "alice"), partial(tracker.locate, ["alice"])):
            with anyio.fail_after(2.0), pytest.raises(BackendUnavailableError, match="was cancelled from inside"):
                await call()
        await gone.aclose()
        assert [user for user, _ in tracker.board] == ["gone"]
        tracker.failing.clear()
        await until(lambda: not tracker.board)
        await tracker.register("alice", A)
        assert [user for user, _ in tracker.board] == ["alice"]


async def test_closing_twice_at_the_same_time() -> None:
    """A subclass that closes its client after `super().aclose()` does so after the drops, in every call."""
    board: Board = {}
    left: list[int] = []

    class Client(BoardPresence):
        async def aclose(self) -> None:
            await super().aclose()
            left.append(len(self.board))

    tracker = Client(board, ttl=30.0)
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(tracker.register, f"user{number}", A)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(tracker.aclose)
    assert left == [0, 0, 0]


async def test_one_failure_ends_a_batch() -> None:
    """After a failure the rest of a batch is not tried: with a store that is away that would take very long."""
    tracker = BoardPresence({}, timeout=0.1)
    async with tracker:
        await tracker.register("first", A)
        tracker.hanging = True
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:

            async def register(number: int) -> None:
                with pytest.raises(BackendUnavailableError, match="TimeoutError"):
                    await tracker.register(f"user{number}", A)

            for number in range(100):
                tasks.start_soon(register, number)
        assert anyio.current_time() - began < 4.0  # one after the other they would take ten seconds
        tracker.hanging = False


async def test_a_fetch_that_hangs_is_given_up() -> None:
    """`locate` raises after `timeout`, and cancelling it earlier leaves the call of the store alone."""
    async with BoardPresence({}, timeout=0.1) as tracker:
        tracker.hanging = True
        with anyio.fail_after(20), pytest.raises(BackendUnavailableError):
            await tracker.locate(["alice"])
        with anyio.move_on_after(0.02) as scope:
            await tracker.locate(["alice"])
        assert scope.cancelled_caught
        assert tracker.busy == {""}
        await until(lambda: not tracker.busy)


async def test_closing_while_a_fetch_hangs() -> None:
    """A `locate` that waits while the tracker closes raises ClosedError."""
    tracker = BoardPresence({})
    tracker.hanging = True

    async def locate() -> None:
        with pytest.raises(ClosedError):
            await tracker.locate(["alice"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(locate)
        await until(lambda: tracker.busy)
        await tracker.aclose()


async def test_a_notifier_uses_it() -> None:
    """With a tracker of three methods, a notifier drops the events of users who are offline."""
    async with BoardPresence({}) as tracker, Notifier(MemoryStore(), presence=tracker, offline="drop") as notifier:
        assert await notifier.push("alice", "t") is None
        async with notifier.subscribe("alice") as stream:
            event = await notifier.push("alice", "t")
            assert await stream.next(5) == event
