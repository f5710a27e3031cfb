"""Two inbox stores on the same data of every real backend do what the pure fold does: the trials of the memory ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, settings

from notify.inbox import InboxStore
from notify_pg import PostgresStore
from notify_redis import RedisStore
from notify_sqlite import SQLiteStore
from tests.servers.postgres import Server as PostgresServer
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import single

from .test_inboxes import Writers, hold

EXAMPLES = max(10, settings().max_examples // 30)


def pair(make: Callable[[], Any]) -> Writers:
    """Return how two stores are opened."""

    @asynccontextmanager
    async def writers() -> AsyncIterator[Sequence[InboxStore]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(make()) for _ in range(2)]

    return writers


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with single() as server:
        yield server.url


@pytest.mark.timeout(300)
def test_sqlite_does_what_the_fold_does() -> None:
    """Two stores on one file."""
    with TemporaryDirectory() as name:
        hold(pair(lambda: SQLiteStore(Path(name) / "notify.db")), "asyncio", EXAMPLES, [Phase.generate])


@pytest.mark.timeout(300)
def test_redis_does_what_the_fold_does(redis_url: str) -> None:
    """Two stores on one server."""
    hold(pair(lambda: RedisStore(redis_url, prefix="inboxes")), "asyncio", EXAMPLES, [Phase.generate])


@pytest.mark.timeout(300)
def test_postgres_does_what_the_fold_does(postgres: PostgresServer) -> None:
    """Two stores in one schema."""
    schema = fresh_schema()
    hold(pair(lambda: PostgresStore(postgres.dsn, schema=schema, timeout=20.0)), "asyncio", EXAMPLES, [Phase.generate])
