"""What waits for a channel that an application has removed ends once it has waited for as long as records are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from notify.dispatch import Dispatcher, Fallback, NotificationType, Reason, Recipient, Schedule, State
from notify.dispatch.abc import Move
from notify.testing.dispatch import RecordingChannel, VirtualClock
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.world import START
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

KEEP = 86_400.0

OLD = [
    NotificationType("note", channels=["fax", "email"], fallback={"email": Fallback("failed", of="fax")}),
    NotificationType("both", channels=["fax", "pager"]),
]


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    """Everybody exists."""
    return [Recipient(each) for each in ids]


class Setting:
    """A store, an application that has three channels, and the next version of it, which has one of them."""

    def __init__(self, store: Any, clock: VirtualClock) -> None:
        self.store, self.clock = store, clock
        self.email = RecordingChannel(has_endpoints=False)
        channels = {name: RecordingChannel(has_endpoints=False) for name in ("fax", "pager")} | {"email": self.email}
        self.before = self._dispatcher(OLD, channels)
        self.after = self._dispatcher([NotificationType("note", channels=["email"])], {"email": self.email})

    def _dispatcher(self, types: Sequence[NotificationType], channels: dict[str, Any]) -> Dispatcher:
        return Dispatcher(
            None, self.store, types, channels, recipients=recipients, clock=self.clock.now, keep=KEEP, lease=60.0
        )

    async def look(self) -> None:
        """Let the new version look for what is old."""
        await self.after._worker._purger.purge(self.clock.now())

    async def states(self, ticket: str) -> dict[str, tuple[State, str]]:
        """Return the state and reason of alice's deliveries by channel."""
        record = await self.store.record(ticket, "alice")
        assert record is not None
        return {each.channel: (each.state, each.reason) for each in record[2]}


@pytest.fixture(params=NAMES)
async def setting(request: pytest.FixtureRequest, postgres: Server, tmp_path: Path) -> AsyncIterator[Setting]:
    """One for each store."""
    clock = VirtualClock(START)
    async with opened(request.param, clock, tmp_path, postgres.dsn, fresh_schema()) as store:
        yield Setting(store, clock)


async def test_it_is_skipped_when_it_is_old(setting: Setting) -> None:
    """Not before, since another process may have the channel; then what waits for it goes on, and all is removed."""
    ticket = (await setting.before.submit("note", "alice", {"title": "x"})).id
    for ahead in (0.0, KEEP - 1):
        setting.clock.advance(f"{ahead:.0f}s")
        await setting.look()
        assert (await setting.states(ticket))["fax"] == (State.WAITING, "")
    setting.clock.advance("1s")
    await setting.look()
    assert (await setting.states(ticket))["fax"] == (State.SKIPPED, Reason.NOT_INSTALLED)
    await setting.after.tick()
    assert len(setting.email.sent(user="alice")) == 1
    setting.clock.advance("1s")
    await setting.look()
    assert await setting.store.record(ticket, "alice") is None


async def take(setting: Setting, lease: float, *steps: dict[str, Any]) -> str:
    """Submit a notification, and leave it as a worker does that dies after some steps; return its ticket."""
    store, now = setting.store, setting.clock.now()
    ticket = (await setting.before.submit("both", "alice", {"title": "x"})).id
    claims = await store.claim(now, lease=lease, channels=["fax", "pager"])
    for step in steps:
        assert all(await store.advance([Move(each.delivery.id, each.delivery.fence, **step) for each in claims], now))
    return ticket


async def test_what_may_have_been_sent_is_unknown(setting: Setting) -> None:
    """It was in doubt while it waited, or its worker has died while it was sent; what was only claimed is skipped."""
    later = {"to": State.WAITING, "reason": Reason.AMBIGUOUS, "due_at": START + timedelta(seconds=9)}
    tickets = [
        await take(setting, 30.0, {"to": State.SENDING}, later),
        await take(setting, 30.0, {"to": State.SENDING, "lease": 0.0}),
        await take(setting, 0.0),
    ]
    setting.clock.advance(f"{KEEP + 9:.0f}s")
    now = setting.clock.now()
    while await setting.after._worker._leave(now - timedelta(seconds=KEEP), now):  # and before all of it is removed
        pass
    ends = [(State.UNKNOWN, Reason.AMBIGUOUS)] * 2 + [(State.SKIPPED, Reason.NOT_INSTALLED)]
    assert [await setting.states(each) for each in tickets] == [{"fax": end, "pager": end} for end in ends]


async def test_what_a_worker_has_taken_lately_is_left_to_the_next(setting: Setting) -> None:
    """However long it had been due: some process has the channel."""
    await setting.before.submit("both", "alice", {"title": "x"})
    setting.clock.advance(f"{2 * KEEP:.0f}s")
    taken = await take(setting, 30.0, {"to": State.SENDING, "lease": 0.0})
    await setting.look()
    assert [state for state, _ in (await setting.states(taken)).values()] == [State.SENDING] * 2
    assert len(await setting.store.stuck([State.SENDING])) == 4


async def test_schedules_and_channels_in_use_are_left_alone(setting: Setting) -> None:
    """A schedule that no process has waits for one; what is late over a channel that exists is sent."""
    setting.before.schedule(Schedule("daily", "note", ["bob"], every=3600.0))
    await setting.before._scheduler.tick(setting.clock.now())
    ticket = (await setting.after.submit("note", "alice", {"title": "x"})).id
    setting.clock.advance(f"{3 * KEEP:.0f}s")
    before = [each for each in await setting.store.stuck([State.WAITING]) if each.user in ("", "alice")]
    await setting.look()
    assert [each for each in await setting.store.stuck([State.WAITING]) if each in before] == before
    assert {each.user for each in before} == {"", "alice"}
    await setting.after.tick()
    assert (await setting.states(ticket))["email"][0] is State.ACCEPTED


async def test_channels_of_what_is_open(setting: Setting) -> None:
    """Each once, whatever its priority; not those of what has ended."""
    assert [*await setting.store.open_channels()] == []
    for _ in range(2):
        ticket = await setting.before.submit("both", "alice", {"title": "x"})
    await setting.before.submit("note", "alice", {"title": "x"})
    assert [*await setting.store.open_channels()] == ["email", "fax", "pager"]
    await setting.store.cancel(ticket.id, setting.clock.now())
    await setting.before.tick()
    assert [*await setting.store.open_channels()] == ["email"]
    await setting.store.purge(setting.clock.now() + timedelta(days=1))
