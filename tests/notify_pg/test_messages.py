"""Messages for a wrong DSN, a server that refuses, a log that is held, and an outage that lasts."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from typing import Any

import asyncpg
import pytest

from notify import BackendUnavailableError, Event, PushRejectedError, UsageError
from notify.adapters import OutageLog
from notify.testing import FaultProxy
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_pg._dsn import check_dsn
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Bouncer, Server

pytestmark = pytest.mark.anyio

PARTS = [PostgresStore, PostgresStreamStore, PostgresRouter, PostgresPresence]

NO_DSNS = ["", "foo", "http://x", "dbname=postgres host=h password=s3cret", "bob:s3cret@host/db"]

MALFORMED = [
    "postgresql://bob:s3:c/ret@host/db",
    "postgresql://bob:12?s3cret@host/db",
    "postgresql://bob:12#s3cret@host/db",
    "postgresql://bob:p@s3cret@host/db",
    "postgresql://bob:p@s3cret:1@host/db",
    "postgresql://bob:[s3cret@host/db",
    "postgresql://bob:s3cret\u2100@host/db",
    "postgresql://host:s3cret/db",
    "postgresql://host,,other/db",
    "postgresql:///db?port=s3cret",
]

DSNS = [
    "postgresql://",
    "postgres:///db",
    "postgresql://u:p%40@h:5432/d?sslmode=require",
    "postgresql://u:p:q@h/d",
    "postgresql://a:1,b,[::1]:5/d?target_session_attrs=read-write",
    "postgresql://u@%2Ftmp:5433/d",
    "postgresql:///d?host=/tmp&port=1,2",
]


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each outage log noted a failure, logged or not."""
    counter: Counter[str] = Counter()
    failed = OutageLog.failed

    def counted(self: OutageLog, error: BaseException | str) -> None:
        counter[self._failing] += 1
        failed(self, error)

    monkeypatch.setattr(OutageLog, "failed", counted)
    return counter


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name in ("notify", "notify.pg")]


# -- the DSN -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_text_that_is_not_a_dsn_is_refused_at_once(part: Any) -> None:
    """Every constructor refuses what the driver would not understand, and says what a DSN looks like."""
    for dsn in NO_DSNS:
        with pytest.raises(UsageError, match="postgresql://user:password@host:5432/database"):
            part(dsn)
    with pytest.raises(UsageError, match=r"SQLAlchemy; write postgresql:// without \+asyncpg"):
        part("postgresql+asyncpg://bob:s3cret@host/db")


@pytest.mark.parametrize("dsn", [*NO_DSNS, *MALFORMED])
def test_no_piece_of_a_password_is_printed(dsn: str) -> None:
    """A DSN that is malformed is refused, and nothing of it stands in the error or its traceback."""
    with pytest.raises(UsageError) as caught:
        check_dsn(dsn)
    printed = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__)
    assert not any(piece in printed for piece in ("cret", "c/ret", "s3"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("part", [PostgresStreamStore, PostgresRouter])
def test_the_dsn_to_listen_at_is_looked_at_too(part: Any) -> None:
    """A text that is not a DSN is refused as `listen_dsn` as well."""
    with pytest.raises(UsageError, match="begins with postgresql://"):
        part("postgresql://", listen_dsn="foo")


@pytest.mark.parametrize("dsn", DSNS)
def test_what_the_driver_understands_is_accepted(dsn: str) -> None:
    """Several hosts, sockets, IPv6, encoded characters and the environment are accepted."""
    PostgresStreamStore(dsn, listen_dsn=dsn)


async def test_what_the_driver_finds_wrong_is_the_users_to_mend(postgres: Server) -> None:
    """An option of the DSN that the driver refuses is a UsageError, for reads, pushes and listening alike."""
    async with PostgresRouter(f"{postgres.dsn}?sslmode=nonsense") as router:
        with pytest.raises(UsageError, match="sslmode"):
            await router.route(Event("alice", "n"), None)
    store = PostgresStore(f"{postgres.dsn}?sslmode=nonsense")
    with pytest.raises(UsageError, match="sslmode") as caught:
        await store.head("alice")
    assert isinstance(caught.value.__cause__, asyncpg.exceptions.ClientConfigurationError)
    with pytest.raises(UsageError, match="sslmode"):
        await store.save(Event("alice", "n"))
    with pytest.raises(UsageError, match="sslmode"):
        await store._retention.maintain(0)
    await store.aclose()


# -- the server --------------------------------------------------------------------------------------------------------


async def test_a_server_that_refuses_has_answered(postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """A database or role that does not exist, or a role without a connection left, is reported as a refusal."""
    await sql.execute(f"CREATE ROLE {schema} LOGIN CONNECTION LIMIT 0")
    try:
        for old, new in (("/postgres", "/nodb"), ("postgres@", "nobody@"), ("postgres@", f"{schema}@")):
            store = PostgresStore(postgres.dsn.replace(old, new))
            with pytest.raises(BackendUnavailableError, match=r"refused the connection: .*(does not exist|too many)"):
                await store.head("alice")
            await store.aclose()
    finally:
        await sql.execute(f"DROP ROLE {schema}")


async def test_a_query_that_fails_was_answered(store: PostgresStore, sql: asyncpg.Connection, schema: str) -> None:
    """Where the server answers a read with an error, the message does not say that it did not answer."""
    await sql.execute(f"ALTER TABLE {schema}.notify_heads RENAME COLUMN last_id TO another")
    with pytest.raises(BackendUnavailableError, match="answered with an error: UndefinedColumnError"):
        await store.head("alice")


async def test_a_server_that_is_away_did_not_answer() -> None:
    """Where no server listens, there was no answer."""
    async with FaultProxy("127.0.0.1", 1) as proxy:
        await proxy.refuse()
        store = PostgresStore(f"postgresql://u@127.0.0.1:{proxy.port}/d")
        with pytest.raises(BackendUnavailableError, match="did not answer: ConnectionRefusedError"):
            await store.head("alice")
        await store.aclose()


async def test_a_held_log_is_named_as_the_reason(make: Make, sql: asyncpg.Connection) -> None:
    """A push that waited too long for another transaction is rejected with this reason."""
    store = await make(timeout=2.0)
    await store.save(Event("alice", "n"))
    async with sql.transaction():
        await store.save_in(Event("alice", "n"), sql)
        with pytest.raises(PushRejectedError, match="another transaction holds the log of this user"):
            await store.save(Event("alice", "n"))


# -- the log -----------------------------------------------------------------------------------------------------------


async def test_a_pooler_is_logged_once(
    make: Make, pgbouncer: Bouncer, failures: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    """However often nothing is received through a pooler, the remedy is logged once."""
    store = await make(PostgresStreamStore, pgbouncer.dsn, probe_interval=0.1)
    async with store.subscribe("alice"):
        await until(lambda: failures[store.live._catch_up._loop._outage._failing] >= 3, 20)
    assert caplog.text.count("transaction mode") == 1


async def test_a_server_that_is_away_for_long_is_logged_once(
    postgres: Server,
    make: Make,
    failures: Counter[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the server is away every part fails repeatedly; each outage is logged when it begins and when it ends."""
    monkeypatch.setattr("notify._stream._catch_up.NOT_RECEIVING_INTERVAL", 0.05)
    caplog.set_level(logging.WARNING, "notify")
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        store = await make(PostgresStreamStore, dsn, probe_interval=0.5, relay=0.1)
        presence = await make(PostgresPresence, dsn, ttl=0.3)
        await presence.register("alice")
        async with store.subscribe("alice") as stream:
            await until(lambda: store.is_receiving)
            await proxy.refuse()
            await proxy.reset()
            outages = [store.live._catch_up._loop._outage, store._outbox._outage, presence._keeper._outage]
            await until(lambda: all(failures[outage._failing] >= 4 for outage in outages), 20)
            lasting = [*outages, store.live._catch_up._failing]
            assert all(outage.is_failing for outage in lasting)
            during = logged(caplog)
            assert max(Counter(during).values()) <= 2, during
            proxy.heal()
            await until(lambda: store.is_receiving, 10)
            event = await store.save(Event("alice", "n"))
            assert await stream.next(10) == event
            await until(lambda: not any(outage.is_failing for outage in lasting))
        after = Counter(logged(caplog)[len(during) :])
        assert [after[outage._recovered] for outage in lasting] == [1] * len(lasting)
        await store.aclose()
        await presence.aclose()
