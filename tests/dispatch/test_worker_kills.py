"""Workers that are killed at each step, or stopped past their leases: nothing is lost, and nothing is sent twice.

An SMS gateway does not recognise what is repeated, so what may have been sent is unknown. A receiver of webhooks does,
by `webhook-id`, and so does the inbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from notify.dispatch import Dispatcher, State
from tests.parts import until
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

from .dispatching import OPEN
from .fake_http import FakeServer
from .working import ONCE, STEPS, Workers, dispatcher

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

FEW = frozenset({"claimed", "begun", "answered", "between endpoints", "folding"})
"""For a store whose tables take long to make: the steps are those of a worker, whatever the store."""

on_sql = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture(scope="module")
def far_side() -> Iterator[FakeServer]:
    """A gateway and a receiver of webhooks, which remember what came."""
    server = FakeServer()
    with server.running():
        yield server


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """The process that starts workers."""
    made = Workers()
    yield made
    made.kill()


def place_of(kind: str, request: pytest.FixtureRequest, directory: Path, name: str) -> str:
    """Return a new place for a store."""
    if kind == "sqlite":
        return json.dumps(["sqlite", str(directory / f"{name}.db")])
    server: Server = request.getfixturevalue("postgres")
    return json.dumps(["postgres", server.dsn, fresh_schema()])


def arrived(far_side: FakeServer) -> Counter[str]:
    """Return how often the receiver got each delivery, whole."""
    whole = [each for each in far_side.requests if len(each.body) == int(each.headers["content-length"])]
    return Counter(each.headers.get("webhook-id") or each.json["id"] for each in whole)


async def settle(found: Dispatcher) -> None:
    """Run a worker until nothing is open."""
    async with found.running(poll_interval=0.05):
        await until(lambda: is_settled(found), 60)


async def is_settled(found: Dispatcher) -> bool:
    """Whether nothing is open."""
    return not await found.stuck([each.name for each in OPEN], limit=1)


@on_sql
async def test_workers_that_are_killed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, far_side: FakeServer, workers: Workers
) -> None:
    """At every step of a worker, SIGKILL loses nothing and repeats only what is recognised as repeated."""
    far_side.reset()
    async with AsyncExitStack() as stack:
        heirs: dict[str, Dispatcher] = {}
        steps = {step: type for step, type in STEPS.items() if kind == "sqlite" or step in FEW}
        for step, type in steps.items():
            place = place_of(kind, request, tmp_path, step)
            heirs[step] = await stack.enter_async_context(dispatcher(place, far_side.url))
            await heirs[step].submit(type, "alice", {"title": step}, idempotency_key=step)
            workers.start(place, far_side.url, step)
        await asyncio.to_thread(workers.wait)
        await asyncio.gather(*map(settle, heirs.values()))
        sent, states = arrived(far_side), dict[str, Counter[str]]()
        for step, heir in heirs.items():
            states[step] = await outcome(heir, step, sent)
    for step, type in steps.items():
        expected: Counter[str] = Counter()
        if type in ("all", "text", "digest", "fallback"):
            expected["sms unknown" if step in ONCE else "sms accepted"] += 1
        if type in ("all", "hooks"):
            expected["webhook accepted"] += 2
        if type in ("all", "fallback"):
            expected["in_app accepted"] += 1
        assert states[step] == expected, step


async def outcome(heir: Dispatcher, step: str, sent: Counter[str]) -> Counter[str]:
    """Return what became of the deliveries of one store; check that the receiver got them as often as it should."""
    found = [each for each in await heir.stuck([each.name for each in State]) if each.state is not State.EXPANDED]
    for each in found:
        match each.channel:
            case "sms":
                assert sent[each.id] == (0 if step in ("begun", "half sent") else 1), step
            case "webhook":
                assert 1 <= sent[each.id] <= 2, step
                assert sent[each.id] == 1 or step == "between endpoints", step
    inbox = heir._parts.inbox
    assert inbox is not None
    items = (await inbox.list("alice")).items
    assert len(items) == sum(each.channel == "in_app" for each in found), step
    return Counter(f"{each.channel} {each.state.name.lower()}" for each in found)


@on_sql
async def test_worker_that_is_stopped_past_its_lease(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, far_side: FakeServer, workers: Workers
) -> None:
    """A second worker takes over from one that is stopped; when that goes on, its outcome is listed, and is late."""
    far_side.reset()
    place = place_of(kind, request, tmp_path, "stopped")
    async with dispatcher(place, far_side.url) as heir:
        ticket = await heir.submit("text", "alice", {"title": "x"})
        pid = workers.start(place, far_side.url, "stopped", lease=1.0)
        await until(lambda: far_side.requests, 60)
        await settle(heir)
        assert [each.state for each in await ticket.report("alice")] == [State.UNKNOWN]
        os.kill(pid, signal.SIGCONT)

        async def has_both() -> bool:
            found = await heir.explain(ticket, "alice")
            return found is not None and len(found.attempts) == 2

        await until(has_both, 60)
        found = await heir.explain(ticket, "alice")
        assert found is not None
        assert [each.state for each in found.report()] == [State.UNKNOWN]
        assert {(each.state, each.is_late) for each in found.attempts} == {
            (State.UNKNOWN, False),
            (State.ACCEPTED, True),
        }
        assert arrived(far_side) == {each.id: 1 for each in found.deliveries if each.endpoint}
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(workers.wait)
