"""What a plan says is what is then done, with deliveries in PostgreSQL."""

from __future__ import annotations

import anyio
from hypothesis import given, settings

from notify.testing.dispatch import VirtualClock
from notify_pg import PostgresDispatchStore
from tests.dispatch.test_plans_come_true import CASES, Case, check
from tests.dispatch.world import START, World
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres


@settings(max_examples=12, deadline=None)
@given(case=CASES)
def test_plan_comes_true_in_postgres(postgres: Server, case: Case) -> None:
    """Every Send is sent at once, every Hold and Join when its time has come, and no Skip at all."""

    async def act() -> None:
        store = PostgresDispatchStore(postgres.dsn, schema=fresh_schema(), timeout=60.0)
        await check(case, World([case.type], VirtualClock(START), store))

    anyio.run(act)
