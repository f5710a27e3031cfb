"""Plain stores without a router: other processes' events are found by polling, cheaply and in time."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import monotonic
from typing import Any

import anyio
import pytest

from notify import Page, Store

from .conftest import Start
from .places import PLAIN, Parts, Place

pytestmark = pytest.mark.anyio
backends = pytest.mark.parametrize("backend", PLAIN, ids=lambda backend: backend.__name__)

INTERVAL = 0.4
SLACK = 0.4
"""Seconds that the queries and a loaded machine may add."""


@backends
async def test_never_later_than_the_interval(place: Place, start: Start, backend: type[Store]) -> None:
    """Whenever another process pushes, the stream has the event within `poll_interval`, once."""
    one = await start(place, Parts(backend))
    two = await start(place, Parts(backend), poll_interval=INTERVAL)
    delays = []
    async with two.subscribe("alice") as stream:
        for value in range(12):
            await anyio.sleep(INTERVAL * value / 12)  # at any time within an interval
            began = monotonic()
            event = await one.push("alice", "t", value)
            assert await stream.next(timeout=10) == event
            delays.append(monotonic() - began)
    assert max(delays) < INTERVAL + SLACK
    assert median(delays) < INTERVAL


@backends
async def test_one_query_for_all_users(place: Place, start: Start, backend: type[Store]) -> None:
    """Three hundred streams of a hundred users cost one batched query per interval, and no single reads."""
    queries: list[tuple[float, int]] = []
    reads: list[str] = []

    class Counted(backend):  # type: ignore[misc,valid-type]
        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            queries.append((monotonic(), len(after)))
            pages: Mapping[str, Page] = await super().read_many(after, limit)
            return pages

        async def read(self, user: str, after: str, limit: int) -> Page:
            reads.append(user)
            page: Page = await super().read(user, after, limit)
            return page

    Counted.__name__ = backend.__name__  # that is how a place knows what to do
    users = [f"user{number}" for number in range(100)]
    one = await start(place, Parts(backend))
    two = await start(place, Parts(Counted), poll_interval=INTERVAL)
    streams: list[Any] = [await two.subscribe(user).__aenter__() for user in users for _ in range(3)]
    reads.clear()
    queries.clear()
    began = monotonic()
    while len(queries) < 6:  # noqa: ASYNC110 - polling is what is looked at
        await anyio.sleep(0.01)
    took = monotonic() - began
    assert {size for _, size in queries} == {100}
    assert took > 5 * INTERVAL * 0.6  # the jitter only ever makes an interval shorter, to 0.6
    await one.push_many(users, "t", 1)
    for stream in streams:
        assert (await stream.next(timeout=10)).payload == 1
    assert reads == []
    for stream in streams:
        await stream.aclose()
