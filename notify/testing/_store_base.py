"""What the suites of stores share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from notify import Event, Page, Store, ids

from ._suite import Suite
from ._types import StoreT


class StoreTests(Suite[StoreT]):
    """The store under test, and what the tests do with it."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[Store]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def fill(self, store: Store, user: str, count: int) -> list[Event]:
        """Save `count` events, numbered from 0, one after the other, and return them as stored."""
        events = []
        for number in range(count):
            events.append(await store.save(Event(user, "n", number)))
            await anyio.lowlevel.checkpoint()
        return events

    async def fill_over_time(self, store: Store, user: str) -> list[Event]:
        """Save events until the last one is of a later millisecond than those before, and return them."""
        events = await self.fill(store, user, 2)
        with anyio.fail_after(self.patience):
            while ids.parse(events[-1].id)[0] == ids.parse(events[-2].id)[0]:
                await anyio.sleep(0.001)
                events.append(await store.save(Event(user, "n", len(events))))
        return events

    async def read_all(self, store: Store, user: str, after: str = "0", limit: int = 100) -> list[Event]:
        """Read a log to its end, page by page, and assert that no page has a gap."""
        events: list[Event] = []
        page: Page | None = None
        while page is None or len(page.events) == limit:
            page = await store.read(user, after, limit)
            assert page.gap is None
            events += page.events
            after = page.position
        return events
