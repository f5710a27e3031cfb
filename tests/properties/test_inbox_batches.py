"""An inbox contains the same whether its events are saved singly or in batches: whatever is too old or expired by then.

Memory and SQLite have a clock that stands still in a batch and then steps, backwards too. The servers have their own,
on which an item of a retention of some milliseconds may be too old as soon as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from notify import Event
from notify.inbox import InboxRetention
from notify.inbox.abc import ITEM, ItemQuery
from notify_memory import MemoryStore
from notify_pg import PostgresStore
from notify_redis import RedisStore
from notify_sqlite import SQLiteStore
from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import single

EXAMPLES = max(25, settings().max_examples // 10)
START = 1_700_000_000.0

_numbers = count()


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Draft(NamedTuple):
    """An item, which expires after so many seconds unless that is None; with an effect, a change of a group."""

    group: str | None
    expires: float | None
    effect: str = ""

    def event(self, user: str, number: int, now: float) -> Event:
        """Return the draft of the event."""
        if self.effect:
            return Event(user, f"notify.{self.effect}", {"group": self.group or "g"})
        expiry = "" if self.expires is None else str(int((now + self.expires) * 1000))
        return Event(user, "t", number, group=self.group, meta={ITEM: expiry})


Batch = tuple[float, list[Draft]]
"""How far the clock steps before it, and what it saves."""


def batches(expiries: Sequence[float | None], effects: Sequence[str]) -> st.SearchStrategy[list[Batch]]:
    groups = st.sampled_from([None, "g"])
    items = st.builds(Draft, groups, st.sampled_from(expiries), st.just(""))
    changes = st.builds(Draft, groups, st.none(), st.sampled_from(effects))
    steps = st.sampled_from([0.0, 0.001, 0.002, 0.01, -0.005, 3600.0, -3600.0])
    drafts = st.sampled_from([items] * 6 + [changes]).flatmap(lambda kind: kind)
    return st.lists(st.tuples(steps, st.lists(drafts, min_size=1, max_size=4)), min_size=1, max_size=4)


retentions = st.builds(
    InboxRetention,
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, 0.0, 0.001, 0.004, 3600.0]),
    st.booleans(),
)


KNOWN: list[tuple[InboxRetention, list[Batch]]] = [
    (  # the first item of the group displaces another, and is removed by the second, which is not listed
        InboxRetention(1, None),
        [(0.0, [Draft(None, None)]), (0.0, [Draft("g", None), Draft("g", -1.0)])],
    ),
    (InboxRetention(1, 0.0), [(0.0, [Draft(None, None)] * 4), (0.0, [Draft("g", None)] * 2)]),
    (InboxRetention(1, 0.001, keep_unread=True), [(0.01, [Draft("g", None), Draft("g", None, "read")])] * 3),
]
"""Examples that have failed, and retentions by which items are too old at once."""


async def shown(store: Any, user: str) -> object:
    """What an inbox contains: payloads and states, newest first, and the counts."""
    page = await store.items(user, ItemQuery(state="all"))
    states = [
        (each.event.payload, each.seen_at is None, each.read_at is None, each.dismissed_at is None)
        for each in page.items
    ]
    return states, (page.counts.total, page.counts.unseen, page.counts.unread)


async def compare(store: Any, clock: Clock | None, retention: InboxRetention, taken: list[Batch]) -> None:
    """Save everything singly for one user and in batches for another, and compare their inboxes."""
    store.inbox_retention = retention
    one, other = (f"{name} {next(_numbers)}" for name in ("singly", "batches"))
    numbers = count()

    async def agree() -> bool:
        return await shown(store, one) == await shown(store, other)

    for step, drafts in taken:
        now = START
        if clock is not None:
            clock.now += step
            now = clock.now
        numbered = [(draft, next(numbers)) for draft in drafts]
        for draft, number in numbered:
            await store.save(draft.event(one, number, now))
        outcomes = await store.save_many([draft.event(other, number, now) for draft, number in numbered])
        assert all(isinstance(outcome, Event) for outcome in outcomes)
        if clock is not None:
            assert await shown(store, one) == await shown(store, other)
    await until(agree, 10)
    await store.sweep()
    await until(agree, 10)


def hold(opened: Callable[[], AbstractAsyncContextManager[Any]], clock: Clock | None) -> None:
    """Compare random examples; the store is opened once, since each example has users of its own."""
    expiries = (None, None, -1.0, 0.0, 0.002, 4000.0) if clock is not None else (None, -1.0, -1.0, 10e9)
    effects = ("seen", "read", "dismissed") + (("unread", "restored") if clock is not None else ())
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(opened()) as store:
        for known, failed in KNOWN:
            portal.call(compare, store, clock, known, failed)

        @settings(
            max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
        )
        @given(retentions, batches(expiries, effects))
        def example(retention: InboxRetention, taken: list[Batch]) -> None:
            portal.call(compare, store, clock, retention, taken)

        example()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with single() as server:
        yield server.url


@pytest.mark.timeout(300)
def test_memory() -> None:
    """By a clock that steps."""
    hold(partial(MemoryStore, clock=(clock := Clock())), clock)


@pytest.mark.timeout(300)
def test_sqlite(tmp_path: Path) -> None:
    """By a clock that steps."""
    hold(partial(SQLiteStore, tmp_path / "notify.db", clock=(clock := Clock())), clock)


@pytest.mark.timeout(300)
def test_redis(redis_url: str) -> None:
    """By the clock of the server."""
    hold(partial(RedisStore, redis_url, prefix="batches"), None)


@pytest.mark.timeout(300)
def test_postgres(postgres: PostgresServer) -> None:
    """By the clock of the server."""
    hold(partial(PostgresStore, postgres.dsn, schema=fresh_schema(), timeout=20.0), None)
