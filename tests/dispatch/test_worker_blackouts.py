"""Four workers whose database is unreachable for ten seconds, or whose Redis for caps is unreachable for some attempts.

They recover by themselves: nothing is lost, nothing is sent twice to a receiver that does not recognise repetitions,
and an unknown outcome is recorded as unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from notify import BackendError
from notify.dispatch import Dispatcher, State
from tests.parts import until
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import own_postgres as own_postgres
from tests.servers.redis import single

from .dispatching import OPEN
from .fake_http import FakeServer
from .test_worker_kills import arrived
from .working import SharedClock, Workers, dispatcher

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"]), pytest.mark.timeout(400)]

AWAY = 10.0
"""Seconds for which a server is gone: the subject of these tests, not a way to wait for something."""

DUE = 100.0
"""Seconds after which every delivery that was put off because caps could not be counted is due."""

COUNT = 120
"""Notifications that are submitted before."""

OPTIONS: dict[str, Any] = {"lease": 20.0, "poll_interval": 0.5}
"""Options of the workers: polling more often would keep the processor busy for the minutes that a test takes."""


@pytest.fixture
def far_side() -> Iterator[FakeServer]:
    """A gateway and a receiver of webhooks, which remember what came."""
    with FakeServer().running() as server:
        yield server


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """The process that starts workers."""
    made = Workers()
    yield made
    made.kill()


async def is_settled(found: Dispatcher) -> bool:
    try:
        return not await found.stuck([each.name for each in OPEN], limit=1)
    except BackendError:  # it has just come back
        return False


async def settle(found: Dispatcher) -> None:
    """Wait until the workers have left nothing open, by their own schedule."""
    try:
        await until(lambda: is_settled(found), 150)
    except TimeoutError:
        left = await found.stuck([each.name for each in OPEN], limit=1000)
        pytest.fail(f"{len(left)} deliveries are open: {left[:3]}")


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_postgres_is_gone(how: str, own_postgres: Server, far_side: FakeServer, workers: Workers) -> None:
    """While deliveries are claimed, begun and on their way, over three channels."""
    place = json.dumps(["postgres", own_postgres.dsn, fresh_schema()])
    async with dispatcher(place, far_side.url) as found:
        users = [f"user{number}" for number in range(COUNT)]
        await found.submit_many("all", users, {"title": "before"})
        pids = [workers.start(place, far_side.url, **OPTIONS) for _ in range(4)]
        await until(lambda: len(far_side.requests) > COUNT // 2, 120)
        before = len(far_side.requests)
        if how == "frozen":
            own_postgres.freeze()
        else:
            own_postgres.kill()
        await asyncio.sleep(AWAY)
        if how == "frozen":
            own_postgres.thaw()
        else:
            await asyncio.to_thread(own_postgres.start)
        assert len(far_side.requests) < 3 * COUNT  # it was gone while there was work
        while True:
            with suppress(BackendError):  # it has just come back
                await found.submit("all", "late", {"title": "afterwards"}, idempotency_key="late")
                break
            await asyncio.sleep(0.05)
        await settle(found)
        assert len(far_side.requests) > before
        rows = [each for each in await found.stuck([*(each.name for each in State)], limit=10_000)]
        sent, became = arrived(far_side), Counter[str]()
        inbox = found._parts.inbox
        assert inbox is not None
        for each in rows:
            if each.state is State.EXPANDED:
                continue
            became[f"{each.channel} {each.user}"] += 1
            match each.channel:
                case "in_app":
                    assert each.state is State.ACCEPTED
                    assert len((await inbox.list(each.user)).items) == 1
                case "webhook":
                    assert each.state is State.ACCEPTED
                    assert 1 <= sent[each.id] <= each.attempts
                case _:
                    assert each.state in (State.ACCEPTED, State.UNKNOWN)
                    assert sent[each.id] == 1 or (each.state is State.UNKNOWN and sent[each.id] == 0)
        expected = {"in_app": 1, "sms": 1, "webhook": 2}
        assert became == {f"{name} {user}": n for user in [*users, "late"] for name, n in expected.items()}
        unknown = [each for each in rows if each.state is State.UNKNOWN]
        assert len(unknown) <= 4 * 50  # what four workers can have on their way
        for each in unknown:
            explanation = await found.explain(each.notification, each.user)
            assert explanation is not None
            assert "ambiguous" in [attempt.reason for attempt in explanation.attempts if attempt.delivery == each.id]
        workers.end(pids)  # all of them are still there


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_redis_that_counts_is_gone(how: str, tmp_path: Path, far_side: FakeServer, workers: Workers) -> None:
    """Marketing waits until Redis is back, however often it is tried; all else is sent in the meantime."""
    place, clock = json.dumps(["sqlite", str(tmp_path / "dispatch.db")]), SharedClock(tmp_path / "clock")
    with single() as redis:
        more = {"caps": json.dumps(["redis", redis.url, "caps"]), "clock": str(clock.file)}
        async with dispatcher(place, far_side.url, **more) as found:
            await found.set_preferences("alice", {"opt_in": {"offers": True}})
            pids = [workers.start(place, far_side.url, **more, **OPTIONS) for _ in range(4)]
            first = await found.submit("offer", "alice", {"title": "first"})
            await settle(found)
            if how == "frozen":
                redis.freeze()
            else:
                redis.kill()
            offers = [await found.submit("offer", "alice", {"title": str(number)}) for number in range(10)]
            others = [await found.submit("counted", "alice", {"title": str(number)}) for number in range(10)]

            async def has_sent_others() -> bool:
                reports = [await each.report() for each in others]
                return all(each.state is State.ACCEPTED for report in reports for each in report)

            async def put_off() -> set[str]:
                """Return the open notifications if all were put off because caps could not be counted, else none."""
                rows = await found.stuck([each.name for each in OPEN], limit=1000)
                now = clock.now()
                for each in rows:
                    is_put_off = (each.state, each.reason) == (State.WAITING, "caps_unavailable")
                    if not is_put_off or each.due_at is None or each.due_at <= now:
                        return set()
                return {each.notification for each in rows}

            async def has_put_off_offers() -> bool:
                return await put_off() == {each.id for each in offers}

            async def is_over() -> bool:
                if await put_off():  # perhaps by a worker that has not noticed yet that Redis is back
                    clock.advance(DUE)
                return await is_settled(found)

            await until(has_sent_others, 120)
            await until(has_put_off_offers, 120)
            clock.advance(DUE)  # they are tried again, still without counts
            await until(has_put_off_offers, 120)
            if how == "frozen":
                redis.thaw()
            else:
                await asyncio.to_thread(redis.start)
            await until(is_over, 120)
            for each in (first, *offers, *others):
                assert [row.state for row in await each.report()] == [State.ACCEPTED, State.ACCEPTED]
            assert arrived(far_side).total() == 2 * 21
            assert set(arrived(far_side).values()) == {1}
            workers.end(pids)
