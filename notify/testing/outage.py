"""Suites for outages: what a part does while its server is away, and how it comes back.

```python
class TestMyStoreOutage(BehindFaultProxy[MyStore], StoreOutageSuite[MyStore]):
    async def make_at(self, host: str, port: int) -> MyStore:
        return MyStore(f"my://{host}:{port}")

    def server(self) -> tuple[str, int]:
        return "127.0.0.1", 4222
```

There is one suite for each interface. Instead of `BehindFaultProxy`, a test class may define `make`, `interrupt` and
`restore` itself, for example to kill and start a server, or to lock a file.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import anyio

from notify import BackendUnavailableError, Event, PresenceTracker, RoutingInfo, Stream
from notify.abc import Registration

from ._outage_base import BehindFaultProxy as BehindFaultProxy
from ._outage_base import OutageSuite as OutageSuite
from ._outage_stores import StoreOutageSuite as StoreOutageSuite
from ._outage_stores import StreamStoreOutageSuite as StreamStoreOutageSuite
from ._presence_base import A, B, PresenceTests
from ._router_base import RouterTests
from ._types import PresenceT, RouterT
from ._waits import eventually, within

__all__ = [
    "BehindFaultProxy",
    "OutageSuite",
    "PresenceOutageSuite",
    "RouterOutageSuite",
    "StoreOutageSuite",
    "StreamStoreOutageSuite",
]


class RouterOutageSuite(RouterTests[RouterT], OutageSuite[RouterT]):
    """For a router whose server may go away. `another` returns a router that the outage reaches, too."""

    async def test_events_arrive_again(self, router: RouterT) -> None:
        """After an outage, events arrive again at the instance they are routed to, and at every one if at none."""
        async with self.instances(router, "a", "b") as (_, streams):
            await self.assert_arrive(router, streams)
            for begin in self.faults:
                async with self.outage(router, begin):
                    await self.try_to_route(router, None, "lost")
                await self.assert_arrive(router, streams)

    async def assert_arrive(self, router: RouterT, streams: Mapping[str, Stream]) -> None:
        """Assert that events reach each instance and all of them, in a while: a route may be lost at any time."""
        for to in (None, *map(self.to, streams)):
            payload = secrets.token_hex(4)
            for name in streams if to is None else [to.instance_id]:
                arrives = partial(self.assert_one_arrives, router, to, payload, streams[name])
                await eventually(arrives, self.recovery)

    async def assert_one_arrives(self, router: RouterT, to: RoutingInfo | None, payload: str, stream: Stream) -> None:
        """Route an event, and assert that it, or one like it, arrives soon."""
        await self.try_to_route(router, to, payload)
        seen: list[object] = []
        with anyio.move_on_after(0.2):
            while payload not in seen:
                seen.append((await stream.next()).payload)
        assert payload in seen, "events do not arrive after the outage"

    async def try_to_route(self, router: RouterT, to: RoutingInfo | None, payload: str) -> None:
        """Route an event, no longer than a notifier would, which logs and counts whatever the router raises."""
        with anyio.move_on_after(1.0), suppress(Exception):
            await router.route(Event("alice", "t", payload), to)


class PresenceOutageSuite(PresenceTests[PresenceT], OutageSuite[PresenceT]):
    """For a presence tracker whose server may go away. `recovery` has to be longer than a lease."""

    async def test_locating_in_an_outage_is_unavailable(self, tracker: PresenceT) -> None:
        """`locate` raises BackendUnavailableError during an outage, and never answers that users are offline."""
        await self.works(partial(tracker.register, "alice", A), "register()")
        for begin in self.faults:
            async with self.outage(tracker, begin):
                for users in (["alice"], ["unknown"]):
                    await self.raises(partial(tracker.locate, users), "locate()", BackendUnavailableError)
            await self.works(partial(tracker.locate, ["alice"]), "locate()")

    async def test_registrations_survive_an_outage(self, tracker: PresenceT) -> None:
        """A user who was registered before an outage is located after it, by every process."""
        async with self.outside(tracker) as other:
            await self.works(partial(tracker.register, "alice", A), "register()")
            await self.works(partial(other.register, "bob", B), "register()")
            for begin in self.faults:
                async with self.outage(tracker, begin):
                    await self.try_to_register(tracker, "alice", A)
                for _ in range(2):
                    for one in (tracker, other):
                        await self.at_last(one, "alice", A)
                        await self.at_last(one, "bob", B)
                    await anyio.sleep(self.prompt)  # what the outage has lost would be gone by then

    async def test_registering_in_an_outage_ends_in_time(self, tracker: PresenceT) -> None:
        """A registration during an outage is made later or raises BackendUnavailableError, and then is not made."""
        async with self.outside(tracker) as other:
            for user, begin in zip(("alice", "bob"), self.faults, strict=True):
                async with self.outage(tracker, begin):
                    registration = await self.try_to_register(tracker, user, A)
                await self.at_last(other, user, *([A] if registration is not None else []))
                await self.works(partial(tracker.register, user, B), "register()")
                await self.at_last(other, user, *([A, B] if registration is not None else [B]))

    async def test_an_end_in_an_outage_takes_effect(self, tracker: PresenceT) -> None:
        """A registration that is released or closed during an outage has ended for every process after it."""
        async with self.outside(tracker) as other:
            for begin in self.faults:
                alice = await self.works(partial(tracker.register, "alice", A), "register()")
                bob = await self.works(partial(tracker.register, "bob", A), "register()")
                async with self.outage(tracker, begin):
                    alice.release()
                    with within(self.detection, "aclose() of a registration"), suppress(BackendUnavailableError):
                        await bob.aclose()
                for user in ("alice", "bob"):
                    await self.at_last(other, user)

    async def try_to_register(self, tracker: PresenceT, user: str, routing: RoutingInfo) -> Registration | None:
        """Return a registration, or None where that was refused."""
        made: list[Registration] = []

        async def register() -> None:
            made.append(await tracker.register(user, routing))
            raise BackendUnavailableError("registered")

        await self.raises(register, "register()", BackendUnavailableError)
        return made[0] if made else None

    async def at_last(self, tracker: PresenceTracker, user: str, *routing: RoutingInfo) -> None:
        """Assert that a while after an outage the user is connected at exactly these places."""

        async def is_there() -> None:
            try:
                await self.assert_at(tracker, user, *routing)
            except BackendUnavailableError as error:
                raise AssertionError("locate() does not work again after the outage") from error

        await eventually(is_there, self.recovery)
