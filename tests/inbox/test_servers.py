"""How an inbox must behave on servers: the tests of `test_behaviour.py` with two instances, on Redis and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from notify_pg import PostgresStreamStore
from notify_redis import RedisStreamStore
from tests.inbox.test_behaviour import Stores
from tests.inbox.test_behaviour import pair as pair
from tests.inbox.test_behaviour import test_a_hundred_sends_of_one_group as test_a_hundred_sends_of_one_group
from tests.inbox.test_behaviour import (
    test_a_reconnect_removes_only_what_was_dismissed as test_a_reconnect_removes_only_what_was_dismissed,
)
from tests.inbox.test_behaviour import test_a_topic_with_many_followers as test_a_topic_with_many_followers
from tests.inbox.test_behaviour import test_counts_while_items_arrive as test_counts_while_items_arrive
from tests.inbox.test_behaviour import test_following_on_another_instance as test_following_on_another_instance
from tests.inbox.test_behaviour import test_marking_all_while_items_arrive as test_marking_all_while_items_arrive
from tests.inbox.test_behaviour import test_pages_while_thousands_come_and_go as test_pages_while_thousands_come_and_go
from tests.inbox.test_behaviour import test_progress_that_crowds_the_log as test_progress_that_crowds_the_log
from tests.inbox.test_behaviour import test_two_tabs as test_two_tabs
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server, single

pytestmark = pytest.mark.anyio

_PREFIXES = (f"inbox{number}" for number in count())


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with single() as server:
        yield server


@pytest.fixture(params=["redis", "postgres"])
def stores(request: pytest.FixtureRequest) -> Stores:
    server = request.getfixturevalue(request.param)
    if request.param == "redis":
        return partial(two_stores, RedisStreamStore, server.url, prefix=next(_PREFIXES))
    return partial(two_stores, PostgresStreamStore, server.dsn, schema=fresh_schema(), timeout=20.0)


def two_stores(kind: Any, url: str, **options: Any) -> tuple[Any, Any]:
    return kind(url, **options), kind(url, **options)
