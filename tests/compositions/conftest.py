"""Servers for all of these tests, places of each test's own, and instances that are closed at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from notify import Notifier
from notify.errors import BackendError
from tests.parts import until
from tests.servers.postgres import Server as PostgresServer
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import own_postgres as own_postgres
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server as RedisServer
from tests.servers.redis import single

from .places import Parts, Place

NEVER = 3600.0
"""Seconds between polls and audits, where nothing may depend on them."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with single() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test alone, to be killed and frozen."""
    with single() as server:
        yield server


@pytest.fixture
def place(redis: RedisServer, postgres: PostgresServer, tmp_path: Path) -> Place:
    return Place(redis.url, postgres.dsn, fresh_schema(), tmp_path / "notify.db")


@pytest.fixture
def own_place(own_redis: RedisServer, own_postgres: PostgresServer, tmp_path: Path) -> Place:
    """On the servers of this test's own."""
    return Place(own_redis.url, own_postgres.dsn, fresh_schema(), tmp_path / "notify.db")


Start = Callable[..., Awaitable[Notifier]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: AsyncExitStack) -> Start:
    """A function that starts an instance with parts of its own."""

    async def start(place: Place, parts: Parts, *, patience: float | None = None, **options: Any) -> Notifier:
        own = {"store": {} if patience is None else {"timeout": patience}}
        made = {
            name: await stack.enter_async_context(aclosing(place.make(cls, **own.get(name, {}))))
            for name, cls in parts._asdict().items()
            if cls is not None
        }
        options = {"poll_interval": NEVER, "audit_interval": NEVER, **options}
        notifier = await stack.enter_async_context(Notifier(**made, **options))

        async def answers() -> bool:
            try:
                await notifier.push("nobody else", "t")
            except BackendError:
                return False
            return True

        # A short timeout is for servers that are frozen or dead. On a busy machine, connecting may take longer.
        await until(answers, 20)
        return notifier

    return start
