"""Suites for counts of frequency caps, and for the gates of providers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from notify import ClosedError, UsageError
from notify.dispatch.abc import CapStore, CapWindow, GateStore

from ._dispatch_base import START, at
from ._dispatch_strange import STRANGE_NAMES, STRANGE_NUMBERS, STRANGE_TIMES, refused
from ._suite import Suite
from ._waits import together


def _windows(*limits: int, user: str = "alice") -> Sequence[CapWindow]:
    return [CapWindow(f"{user}/promo/{number}", limit, at(86_400)) for number, limit in enumerate(limits)]


class CapStoreSuite(Suite[CapStore]):
    """Every store of counts passes these tests."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[CapStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def ask(self, store: CapStore, *names: str, windows: Sequence[CapWindow], user: str = "alice") -> list[int]:
        """Ask for one notification after the other."""
        return [await store.admit(name, user, windows, START) for name in names]

    async def test_a_cap_lets_its_limit_through(self, store: CapStore) -> None:
        """As many are admitted as the limit says; users and buckets are counted apart."""
        assert await self.ask(store, *"abcd", windows=_windows(3)) == [-1, -1, -1, 0]
        assert await self.ask(store, *"abcd", windows=_windows(3, user="bob"), user="bob") == [-1, -1, -1, 0]
        tomorrow = [CapWindow("alice/promo/tomorrow", 1, at(86_400))]
        assert await self.ask(store, *"ef", windows=tomorrow) == [-1, 0]
        assert await self.ask(store, "g", windows=_windows(0, user="carol"), user="carol") == [0]

    async def test_all_windows_or_none(self, store: CapStore) -> None:
        """The first full window is named, and where one is full none counts."""
        assert await self.ask(store, *"abc", windows=_windows(5, 2)) == [-1, -1, 1]
        assert await self.ask(store, *"def", windows=_windows(5)) == [-1, -1, -1]
        assert await self.ask(store, "g", windows=_windows(5)) == [0]
        assert await self.ask(store, "h", windows=_windows(5, 2)) == [0]
        assert await self.ask(store, "i", windows=[*reversed(_windows(5, 2))]) == [0]

    async def test_a_notification_counts_once(self, store: CapStore) -> None:
        """Who was admitted is admitted again without being counted: other channels, other devices, retries."""
        assert await self.ask(store, *"aaaa", windows=_windows(2)) == [-1] * 4
        assert await self.ask(store, *"bab", windows=_windows(2)) == [-1] * 3
        assert await self.ask(store, *"cabc", windows=_windows(2)) == [0, -1, -1, 0]

    async def test_a_refusal_is_kept(self, store: CapStore) -> None:
        """What was refused stays refused when there is room again, until it is refunded."""
        windows = _windows(1)
        assert await self.ask(store, *"ab", windows=windows) == [-1, 0]
        await store.refund("a", "alice", windows)
        assert await self.ask(store, "b", windows=windows) == [0]
        await store.refund("b", "alice", windows)
        assert await self.ask(store, *"bc", windows=windows) == [-1, 0]

    async def test_a_refund(self, store: CapStore) -> None:
        """What was admitted and not sent is taken from all windows, once; a refusal has nothing to give back."""
        windows = _windows(2, 2)
        assert await self.ask(store, *"abc", windows=windows) == [-1, -1, 0]
        for _ in range(2):
            await store.refund("a", "alice", windows)
            await store.refund("c", "alice", windows)
            await store.refund("unknown", "alice", windows)
            await store.refund("b", "bob", windows)
        assert await self.ask(store, *"de", windows=windows) == [-1, 0]
        assert await self.ask(store, "b", windows=windows) == [-1]

    async def test_recording(self, store: CapStore) -> None:
        """What must be sent is counted and admitted over the limit too, once, even if it was refused before."""
        windows = _windows(1, 3)
        assert await self.ask(store, *"ab", windows=windows) == [-1, 0]
        for name in "bcbc":
            assert await store.admit(name, "alice", windows, START, mode="record") == -1
        assert await self.ask(store, *"bcd", windows=windows) == [-1, -1, 0]
        assert await self.ask(store, "e", windows=windows[1:]) == [0]

    async def test_a_count_ends(self, store: CapStore) -> None:
        """A notification leaves its bucket at the time given when it was counted, not before and not all at once."""

        async def ask(name: str, now: float) -> int:
            return await store.admit(name, "alice", [CapWindow("alice/promo/rolling/60", 2, at(now + 60))], at(now))

        assert [await ask(name, now) for name, now in (("a", 0), ("b", 40), ("c", 59.999))] == [-1, -1, 0]
        assert [await ask(name, now) for name, now in (("d", 60), ("e", 60), ("f", 99.999))] == [-1, 0, 0]
        assert [await ask(name, now) for name, now in (("g", 100), ("h", 100), ("c", 200))] == [-1, 0, 0]

    async def test_without_windows(self, store: CapStore) -> None:
        """There is nothing to ask without a window."""
        with pytest.raises(UsageError):
            await store.admit("a", "alice", [], START)

    async def test_admissions_at_the_same_time(self, store: CapStore) -> None:
        """Of 200 concurrent questions, about 40 notifications, exactly the limit is admitted, each as a whole."""
        windows = _windows(3, 10)
        answers: dict[str, list[int]] = {}

        async def ask(name: str) -> None:
            answers.setdefault(name, []).append(await store.admit(name, "alice", windows, START))

        await together(*(partial(ask, f"n{number % 40}") for number in range(200)))
        assert all(len({*each}) == 1 and len(each) == 5 for each in answers.values())
        assert sorted(each[0] for each in answers.values()) == [-1] * 3 + [0] * 37
        assert await self.ask(store, *map(str, range(8)), windows=windows[1:]) == [-1] * 7 + [0]

    async def test_windows_in_any_order(self, store: CapStore) -> None:
        """Concurrent questions that name the same windows in different orders do not block each other."""
        windows = [replace(each, limit=25) for each in _windows(1, 1, 1)]
        answers: list[int] = []

        async def ask(number: int) -> None:
            order = windows if number % 2 else windows[::-1]
            answers.append(await store.admit(f"n{number}", "alice", order, START))

        await together(*(partial(ask, number) for number in range(50)))
        assert sorted(answers) == [-1] * 25 + [0] * 25

    async def test_arguments_for_caps_that_no_store_takes(self, store: CapStore) -> None:
        """Text that some databases cannot store, names too long to index, and values of wrong types are refused."""
        windows = _windows(1)
        word: Any = "windows"
        for bad in STRANGE_NAMES:
            await refused(partial(store.admit, bad, "alice", windows, at(0)), "notification")
            await refused(partial(store.admit, "n", bad, windows, at(0)), "user")
            await refused(partial(store.admit, "n", "alice", [replace(windows[0], bucket=bad)], at(0)), "bucket")
            await refused(partial(store.refund, bad, "alice", windows), "notification")
        for moment in STRANGE_TIMES:
            await refused(partial(store.admit, "n", "alice", windows, moment), "aware")
            await refused(partial(store.admit, "n", "alice", [replace(windows[0], expires_at=moment)], at(0)), "aware")
        for number in STRANGE_NUMBERS:
            await refused(partial(store.admit, "n", "alice", [replace(windows[0], limit=number)], at(0)), "limit")
        await refused(partial(store.admit, "n", "alice", windows, at(0), mode=word), "mode")
        await refused(partial(store.admit, "n", "alice", word, at(0)), "windows")
        assert await self.ask(store, "n", windows=windows) == [-1]

    async def test_a_closed_store_counts_nothing(self, store: CapStore) -> None:
        """After `aclose`, every method raises ClosedError."""
        await self.close(store)
        for call in (
            partial(store.admit, "a", "alice", _windows(1), START),
            partial(store.refund, "a", "alice", _windows(1)),
        ):
            with pytest.raises(ClosedError):
                await call()


class GateStoreSuite(Suite[GateStore]):
    """Every store of gates passes these tests."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[GateStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def test_gates_are_closed_until_then(self, store: GateStore) -> None:
        """A gate is closed until its time has come, to the millisecond; the latest time counts."""
        assert await store.gates(START) == {}
        await store.close_gate("fcm", at(60.0015))
        await store.close_gate("https://push.example", at(30))
        assert await store.gates(START) == {"fcm": at(60.001), "https://push.example": at(30)}
        assert await store.gates(at(29.999)) == {"fcm": at(60.001), "https://push.example": at(30)}
        assert await store.gates(at(30)) == {"fcm": at(60.001)}
        await store.close_gate("fcm", at(10))
        assert await store.gates(at(60)) == {"fcm": at(60.001)}
        await store.close_gate("fcm", at(90))
        assert await store.gates(at(89.999)) == {"fcm": at(90)}
        assert await store.gates(at(90)) == {}

    async def test_gates_closed_at_the_same_time(self, store: GateStore) -> None:
        """Of concurrent calls for one gate, the latest time counts."""
        await together(*(partial(store.close_gate, "g", at(60 + number * 7 % 40)) for number in range(40)))
        assert await store.gates(START) == {"g": at(99)}

    async def test_arguments_for_gates_that_no_store_takes(self, store: GateStore) -> None:
        """Text that some databases cannot store, names too long to index, and values of wrong types are refused."""
        for bad in STRANGE_NAMES:
            await refused(partial(store.close_gate, bad, at(1)), "gate")
        for moment in STRANGE_TIMES:
            await refused(partial(store.close_gate, "email", moment), "aware")
            await refused(partial(store.gates, moment), "aware")
        assert await store.gates(at(0)) == {}

    async def test_a_closed_store_has_no_gates(self, store: GateStore) -> None:
        """After `aclose`, every method raises ClosedError."""
        await self.close(store)
        for call in (partial(store.close_gate, "g", at(60)), partial(store.gates, START)):
            with pytest.raises(ClosedError):
                await call()
