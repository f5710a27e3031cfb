"""Suites for what a presence tracker may promise beyond the interface: an answer at once, sharing, leases."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import ClassVar

import anyio
import pytest

from notify import ClosedError, PresenceTracker
from notify.abc import ImmediatePresence

from ._presence_base import NOWHERE, A, B, PresenceTests
from ._types import PresenceT
from ._waits import eventually


class ImmediatePresenceSuite(PresenceTests[PresenceT]):
    """For a tracker that answers at once: `x_nowait` does what `x` does."""

    async def test_an_answer_at_once_is_the_same_answer(self, tracker: PresenceTracker) -> None:
        """Who is registered and located without waiting equals who is registered and located with it."""
        assert isinstance(tracker, ImmediatePresence)
        registrations = [tracker.register_nowait("alice", A), tracker.register_nowait("bob")]
        assert tracker.locate_nowait(["alice", "bob", "carol"]) == await tracker.locate(["alice", "bob", "carol"])
        await self.assert_at(tracker, "alice", A)
        await self.assert_at(tracker, "bob", NOWHERE)
        for registration in registrations:
            registration.release()
        assert tracker.locate_nowait(["alice", "bob"]) == await tracker.locate(["alice", "bob"]) == {}

    async def test_a_closed_tracker_answers_at_once(self, tracker: PresenceTracker) -> None:
        """After `aclose`, both methods raise ClosedError."""
        assert isinstance(tracker, ImmediatePresence)
        await tracker.aclose()
        with pytest.raises(ClosedError):
            tracker.register_nowait("alice", A)
        with pytest.raises(ClosedError):
            tracker.locate_nowait(["alice"])


class SharedPresenceSuite(PresenceTests[PresenceT]):
    """For a tracker whose registrations several processes see."""

    @abstractmethod
    async def another(self, tracker: PresenceT) -> PresenceT:
        """Return a second tracker of the same users, as another process would have it."""

    async def test_others_see_it(self, tracker: PresenceT) -> None:
        """A registration is seen by another process when `register` returns, its end when `aclose` returns."""
        async with self.closing(await self.another(tracker)) as other:
            registration = await tracker.register("alice", A)
            await self.assert_at(other, "alice", A)
            await registration.aclose()
            await self.assert_at(other, "alice")

    async def test_others_see_a_release_soon(self, tracker: PresenceT) -> None:
        """A registration that was released without waiting promptly ends for other processes."""
        async with self.closing(await self.another(tracker)) as other:
            (await tracker.register("alice", A)).release()
            await self.soon_at(other, "alice")

    async def test_processes_count_together(self, tracker: PresenceT) -> None:
        """A user who is registered by two processes has both locations, and the end of one leaves the other."""
        async with self.closing(await self.another(tracker)) as other:
            here, there = await tracker.register("alice", A), await other.register("alice", B)
            for one in (tracker, other):
                await self.assert_at(one, "alice", A, B)
            await here.aclose()
            await here.aclose()
            for one in (tracker, other):
                await self.assert_at(one, "alice", B)
            await there.aclose()
            for one in (tracker, other):
                await self.assert_at(one, "alice")

    async def test_closing_releases_ones_own(self, tracker: PresenceT) -> None:
        """Closing a tracker ends every registration that it made, at once and for everybody, and no other one."""
        async with self.closing(await self.another(tracker)) as other:
            await tracker.register("alice", A)
            for user in ("alice", "bob"):
                for _ in range(2):
                    await other.register(user, B)
            await self.assert_at(tracker, "bob", B)
            await other.aclose()
            await self.assert_at(tracker, "alice", A)
            await self.assert_at(tracker, "bob")


class LeasedPresenceSuite(SharedPresenceSuite[PresenceT]):
    """For a tracker whose registrations end by themselves when their process dies: includes `SharedPresenceSuite`.

    Attributes:
        ttl: seconds for which a lease is granted, in the trackers that `make` and `another` return.
    """

    ttl: ClassVar[float]

    @abstractmethod
    async def crash(self, tracker: PresenceT) -> None:
        """Make this tracker stop as if its process was killed: nothing is released, nothing refreshed."""

    @abstractmethod
    async def lose_leases(self, tracker: PresenceT) -> None:
        """Remove from the backend all that this tracker has written, as a failover or an eviction would."""

    async def test_the_dead_vanish(self, tracker: PresenceT) -> None:
        """What a process that was killed had registered is there no longer than a time to live."""
        async with self.closing(await self.another(tracker)) as other:
            await tracker.register("alice", A)
            for user in ("alice", "bob"):
                await other.register(user, B)
            await self.crash(other)
            await eventually(partial(self.assert_at, tracker, "bob"), self.ttl + self.prompt)
            await self.assert_at(tracker, "alice", A)

    async def test_the_living_stay(self, tracker: PresenceT) -> None:
        """A registration that is held for many times to live never vanishes."""
        async with self.closing(await self.another(tracker)) as other:
            await tracker.register("alice", A)
            end = anyio.current_time() + 4 * self.ttl
            while anyio.current_time() < end:
                await self.assert_at(other, "alice", A)
                await anyio.sleep(self.ttl / 20)

    async def test_a_lost_lease_heals(self, tracker: PresenceT) -> None:
        """Registrations that the backend lost are there again within a time to live, and can be ended."""
        async with self.closing(await self.another(tracker)) as other:
            registration = await tracker.register("alice", A)
            await self.lose_leases(tracker)
            await eventually(partial(self.assert_at, other, "alice", A), self.ttl + self.prompt)
            await registration.aclose()
            await self.assert_at(other, "alice")

    async def test_an_old_end_ends_nothing_new(self, tracker: PresenceT) -> None:
        """After a lease was lost and others have registered, ending the old registration leaves theirs."""
        async with self.closing(await self.another(tracker)) as other:
            old = await tracker.register("alice", A)
            await self.lose_leases(tracker)
            await other.register("alice", B)
            await old.aclose()
            for _ in range(5):
                await self.assert_at(other, "alice", B)
                await anyio.sleep(self.ttl / 4)

    async def test_a_name_may_return(self, tracker: PresenceT) -> None:
        """A process that takes the place and name of a dead one keeps its users when the dead one's leases end."""
        async with self.closing(await self.another(tracker)) as dead:
            await dead.register("alice", B)
            await self.crash(dead)
            async with self.closing(await self.another(tracker)) as heir:
                await heir.register("alice", B)
                end = anyio.current_time() + 2 * self.ttl
                while anyio.current_time() < end:
                    await self.assert_at(tracker, "alice", B)
                    await anyio.sleep(self.ttl / 20)
