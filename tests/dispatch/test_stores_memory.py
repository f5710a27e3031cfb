"""The suites x the store of deliveries in memory."""

from __future__ import annotations

import pytest

from notify.dispatch.abc import State
from notify.testing._dispatch_base import at, move, submission, to
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
from notify_memory._dispatch_rows import MemoryDeliveries


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


@pytest.mark.anyio
async def test_a_move_looks_only_at_its_recipient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes no pass over all deliveries, and those of a notification that was purged are found nowhere."""
    store = MemoryDispatchStore(clock=VirtualClock())
    await store.submit(submission(to("alice"), to("alice", "sms", after="email", seconds=None), to("bob")))
    claims = await store.claim(at(0), lease=60.0)
    with monkeypatch.context() as patch:
        for name in ("values", "items", "__iter__"):
            patch.setattr(MemoryDeliveries, name, None, raising=False)
        assert await store.advance([move(claim, State.SENDING) for claim in claims], at(0)) == [True, True]
        assert await store.advance([move(claim, State.DELIVERED) for claim in claims], at(0)) == [True, True]
    found = await store.record("n", "alice")
    assert found is not None
    assert [(each.channel, each.state) for each in found[2]] == [("email", State.DELIVERED), ("sms", State.WAITING)]
    await store.cancel("n", at(0))
    assert await store.purge(at(60)) == 1
    assert await store.record("n", "alice") is None
    assert not store._rows
