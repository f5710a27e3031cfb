"""The conformance suite for presence trackers: subclass it, define how to make yours, and run pytest.

```python
class TestMyPresence(PresenceSuite[MyPresence]):
    async def make(self) -> MyPresence:
        return MyPresence()
```

A tracker that answers at once, that several processes share, or whose registrations are leased also takes
`ImmediatePresenceSuite`, `SharedPresenceSuite` or `LeasedPresenceSuite` among the bases of the same class, and one that
depends on a server `PresenceOutageSuite`. A guarantee of the tracker that no base tests is a failure.
"""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from notify import ClosedError, PresenceTracker, RoutingInfo
from notify.abc import ImmediatePresence, Registration

from ._presence_base import NOWHERE, A, B, PresenceTests
from ._presence_features import ImmediatePresenceSuite as ImmediatePresenceSuite
from ._presence_features import LeasedPresenceSuite as LeasedPresenceSuite
from ._presence_features import SharedPresenceSuite as SharedPresenceSuite
from ._samples import HOSTILE_META, HOSTILE_NAMES
from ._suite import assert_tested, declared
from ._types import PresenceT
from ._waits import eventually, interrupted, together

__all__ = ["ImmediatePresenceSuite", "LeasedPresenceSuite", "PresenceSuite", "SharedPresenceSuite"]


class PresenceSuite(PresenceTests[PresenceT]):
    """Every presence tracker passes these tests."""

    async def test_nothing_goes_untested(self, tracker: PresenceTracker) -> None:
        """The tracker declares its guarantees; each of them and each ability is tested by a suite among the bases."""
        guarantees = declared(tracker, "shared", "leased")
        needed = {
            "ImmediatePresenceSuite": isinstance(tracker, ImmediatePresence),
            "SharedPresenceSuite": guarantees.shared,
            "LeasedPresenceSuite": guarantees.leased,
        }
        assert_tested(self, needed)

    async def test_present_while_registered(self, tracker: PresenceTracker) -> None:
        """A user is offline before `register`, present after it, offline after `aclose`, and so again and again."""
        await self.assert_at(tracker, "alice")
        for _ in range(3):
            registration = await tracker.register("alice", A)
            await self.assert_at(tracker, "alice", A)
            await registration.aclose()
            await self.assert_at(tracker, "alice")

    async def test_release_ends_without_waiting(self, tracker: PresenceTracker) -> None:
        """`release` ends a registration at once for the tracker that made it."""
        registration = await tracker.register("alice", A)
        registration.release()
        await self.assert_at(tracker, "alice")
        await registration.aclose()

    async def test_every_connection_counts(self, tracker: PresenceTracker) -> None:
        """A user with two registrations at one instance has one location, and stays present until both have ended."""
        for end in (0, 1):
            registrations = [await tracker.register("alice", A) for _ in range(2)]
            await self.assert_at(tracker, "alice", A)
            await registrations[end].aclose()
            await self.assert_at(tracker, "alice", A)
            await registrations[1 - end].aclose()
            await self.assert_at(tracker, "alice")

    async def test_ending_twice_is_ending_once(self, tracker: PresenceTracker) -> None:
        """A registration that is ended again, either way, ends no other one."""
        first, second = await tracker.register("alice", A), await tracker.register("alice", A)
        for _ in range(2):
            await first.aclose()
            first.release()
        await self.assert_at(tracker, "alice", A)
        second.release()
        await second.aclose()
        await self.assert_at(tracker, "alice")

    async def test_several_instances_are_several_locations(self, tracker: PresenceTracker) -> None:
        """A user at two instances has two locations; whichever goes, the other one stays."""
        at_a, at_b = await tracker.register("alice", A), await tracker.register("alice", B)
        await self.assert_at(tracker, "alice", A, B)
        await at_b.aclose()
        await self.assert_at(tracker, "alice", A)
        at_b = await tracker.register("alice", B)
        await at_a.aclose()
        await self.assert_at(tracker, "alice", B)
        await at_b.aclose()
        await self.assert_at(tracker, "alice")

    async def test_locations_equal_what_was_registered(self, tracker: PresenceTracker) -> None:
        """An instance's name and metadata are located as they were registered, hostile ones too."""
        for name in HOSTILE_NAMES[::2]:
            routing = RoutingInfo(name, HOSTILE_META)
            registration = await tracker.register("alice", routing)
            await self.assert_at(tracker, "alice", routing)
            await registration.aclose()

    async def test_without_routing_the_location_is_empty(self, tracker: PresenceTracker) -> None:
        """A user who was registered without routing is present, at an empty location; beside a real one, at both."""
        nowhere = await tracker.register("alice")
        await self.assert_at(tracker, "alice", NOWHERE)
        await tracker.register("alice", A)
        await self.assert_at(tracker, "alice", NOWHERE, A)
        await nowhere.aclose()
        await self.assert_at(tracker, "alice", A)

    async def test_locating_keeps_the_order(self, tracker: PresenceTracker) -> None:
        """Of many users, those who are present are located in the order asked; the rest is left out."""
        users = [f"user{number:02}" for number in range(40)]
        for user in users[::3]:
            await tracker.register(user, A)
        asked = [*users[20:], *users[:20][::-1]]
        located = await tracker.locate(asked)
        assert list(located) == [user for user in asked if user in users[::3]]
        assert [[to.instance_id for to in places] for places in located.values()] == [["a"]] * len(located)

    async def test_locating_no_users(self, tracker: PresenceTracker) -> None:
        """Asking for no users, or for unknown ones, finds none."""
        await tracker.register("alice", A)
        assert dict(await tracker.locate([])) == {}
        assert dict(await tracker.locate(["bob", "carol"])) == {}

    async def test_users_with_similar_names_are_told_apart(self, tracker: PresenceTracker) -> None:
        """However odd or alike two user ids are, each is present while it is registered, and no longer."""
        registrations = {name: await tracker.register(name, A) for name in HOSTILE_NAMES}
        assert list(await tracker.locate(HOSTILE_NAMES)) == [*HOSTILE_NAMES]
        for name in HOSTILE_NAMES[::2]:
            await registrations[name].aclose()
        assert list(await tracker.locate(HOSTILE_NAMES)) == [*HOSTILE_NAMES[1::2]]

    async def test_many_at_once(self, tracker: PresenceTracker) -> None:
        """A hundred registrations of one user that begin and end at once leave the user offline."""
        registrations: list[Registration] = []

        async def register(number: int) -> None:
            registrations.append(await tracker.register("alice", A if number % 2 else B))

        await together(*(partial(register, number) for number in range(100)))
        await self.assert_at(tracker, "alice", A, B)
        await together(*(registration.aclose for registration in registrations[1:]))
        await eventually(partial(self.assert_one, tracker, "alice"), self.prompt)
        await registrations[0].aclose()
        await self.assert_at(tracker, "alice")

    async def test_any_interleaving(self, tracker: PresenceTracker) -> None:
        """Users that come and go while others ask are found exactly while they are registered."""

        async def come_and_go(user: str) -> None:
            for _ in range(10):
                await self.assert_at(tracker, user)
                registration = await tracker.register(user, A)
                await anyio.lowlevel.checkpoint()
                await self.assert_at(tracker, user, A)
                await registration.aclose()

        await together(*(partial(come_and_go, f"user{number}") for number in range(10)))

    async def test_a_cancelled_end_takes_effect(self, tracker: PresenceTracker) -> None:
        """A registration whose `aclose` is cancelled, at once or later, has ended anyway."""
        for attempt in range(20):
            registration = await tracker.register("alice", A)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await registration.aclose()
            await self.soon_at(tracker, "alice")
            registration = await tracker.register("alice", A)
            await interrupted(registration.aclose, attempt + 1)
            await self.soon_at(tracker, "alice")

    async def test_a_cancelled_registration_does_no_harm(self, tracker: PresenceTracker) -> None:
        """Registrations that are cancelled while they are made leave the tracker working."""
        for attempt in range(20):
            await interrupted(partial(tracker.register, "bob", A), attempt)
        with anyio.fail_after(self.patience):
            registration = await tracker.register("alice", A)
            await self.assert_at(tracker, "alice", A)
            await registration.aclose()
            await self.assert_at(tracker, "alice")

    async def test_a_closed_tracker_raises(self, tracker: PresenceTracker) -> None:
        """After `aclose`, registering and locating raise ClosedError; closing again and ending registrations do not."""
        registration = await tracker.register("alice", A)
        await tracker.aclose()
        await tracker.aclose()
        with pytest.raises(ClosedError):
            await tracker.register("alice", A)
        with pytest.raises(ClosedError):
            await tracker.locate(["alice"])
        with pytest.raises(ClosedError):
            await tracker.locate([])
        registration.release()
        await registration.aclose()

    async def assert_one(self, tracker: PresenceTracker, user: str) -> None:
        """Assert that the user is connected at one place."""
        assert [len(places) for places in (await tracker.locate([user])).values()] == [1]
