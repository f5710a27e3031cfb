"""The suites x the store of deliveries in memory."""

from __future__ import annotations

from notify.testing.dispatch import (
    CapStoreSuite,
    DispatchForgetSuite,
    DispatchStoreSuite,
    EndpointStoreSuite,
    GateStoreSuite,
    PreferenceStoreSuite,
    UserForgetSuite,
    VirtualClock,
)
from notify_memory import MemoryDispatchStore


class Made:
    """How the suites' stores are made: with a clock that is set by hand."""

    async def make(self) -> MemoryDispatchStore:
        self.clock = VirtualClock()
        return MemoryDispatchStore(clock=self.clock)

    async def let_pass(self, store: object, seconds: float) -> None:
        self.clock.advance(seconds)


class TestMemoryDispatchStore(Made, DispatchStoreSuite[MemoryDispatchStore], DispatchForgetSuite[MemoryDispatchStore]):
    pass


class TestMemoryPreferences(Made, PreferenceStoreSuite):
    pass


class TestMemoryEndpoints(Made, EndpointStoreSuite):
    pass


class Sessionless(MemoryDispatchStore):
    """A store without the ability to find the endpoints of a session."""

    session_endpoints = None  # type: ignore[assignment]


class TestEndpointsWithoutSessions(Made, EndpointStoreSuite):
    async def make(self) -> MemoryDispatchStore:
        return Sessionless(clock=(await super().make())._clock)


class Endpoints(MemoryDispatchStore):
    """A store of endpoints that keeps no deliveries, so that nothing in it is old."""

    purge = None  # type: ignore[assignment]


class TestEndpointsAlone(Made, EndpointStoreSuite):
    async def make(self) -> MemoryDispatchStore:
        return Endpoints(clock=(await super().make())._clock)


class TestMemoryCaps(Made, CapStoreSuite):
    pass


class TestMemoryGates(Made, GateStoreSuite):
    pass


class TestMemoryForgetting(Made, UserForgetSuite):
    pass


class Uncounting(MemoryDispatchStore):
    """A store that counts nothing, as one that leaves that to Redis."""

    admit = None  # type: ignore[assignment]


class TestForgettingWithoutCounts(Made, UserForgetSuite):
    async def make(self) -> MemoryDispatchStore:
        return Uncounting(clock=(await super().make())._clock)
