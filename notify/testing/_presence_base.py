"""What the suites of presence trackers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from notify import PresenceTracker, RoutingInfo

from ._suite import Suite
from ._types import PresenceT
from ._waits import eventually

A, B = RoutingInfo("a", {"host": "10.0.0.1"}), RoutingInfo("b", {"host": "10.0.0.2"})
NOWHERE = RoutingInfo()


class PresenceTests(Suite[PresenceT]):
    """The tracker under test, and what the tests do with it."""

    @pytest.fixture
    async def tracker(self, anyio_backend: object) -> AsyncIterator[PresenceTracker]:
        """Make a tracker for one test, and close it."""
        async with self.fresh() as tracker:
            yield tracker

    async def assert_at(self, tracker: PresenceTracker, user: str, *routing: RoutingInfo) -> None:
        """Assert that the user is connected at exactly these places, in any order; at none: offline."""
        located = await tracker.locate([user])
        assert list(located) == [user] * bool(routing)
        found = sorted((to.instance_id, sorted(to.metadata.items())) for to in located.get(user, ()))
        assert found == sorted((to.instance_id, sorted(to.metadata.items())) for to in routing)

    async def soon_at(self, tracker: PresenceTracker, user: str, *routing: RoutingInfo) -> None:
        """Assert that the user will promptly be connected at exactly these places."""
        await eventually(partial(self.assert_at, tracker, user, *routing), self.prompt)
