"""Wake messages, the listener, poolers, the router and presence: what is lost, and what recovers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg
import pytest

from notify import BackendUnavailableError, ClosedError, Event, Notifier, RoutingInfo
from notify.testing import FaultProxy, Faults
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_pg._names import short_key
from notify_pg._wake import MAX_PAYLOAD, pack_keys
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Bouncer, Server

pytestmark = pytest.mark.anyio

LISTENING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND query LIKE $1"


async def listeners(sql: asyncpg.Connection, schema: str) -> list[int]:
    return [row["pid"] for row in await sql.fetch(LISTENING, f"%{schema}.%")]


async def test_one_connection_listens_for_all(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """However many users have streams, one connection listens, to one channel, and it is in no transaction."""
    store = await make(PostgresStreamStore)
    streams = [store.subscribe(f"user{number}") for number in range(100)]
    for stream in streams:
        await stream.__aenter__()
    await until(lambda: store.is_receiving)
    (pid,) = await listeners(sql, schema)
    assert await sql.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", pid) == "idle"
    for stream in streams:
        await stream.aclose()
    assert not store._users


async def test_a_plain_store_without_streams_does_not_listen(
    store: PostgresStore, sql: asyncpg.Connection, schema: str
) -> None:
    """A process that only pushes sends wake messages, and does not listen."""
    await store.save(Event("alice", "n"))
    assert not await listeners(sql, schema)


async def test_a_killed_listener_misses_nothing(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """While the listening connection is killed again and again, every event arrives, in order, without a gap."""
    store, writer = await make(PostgresStreamStore, probe_interval=0.5), await make(PostgresStore)
    async with store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)

        async def kill() -> None:
            for _ in range(5):
                for pid in await listeners(sql, schema):
                    await sql.execute("SELECT pg_terminate_backend($1)", pid)
                await anyio.sleep(0.1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kill())
            saved = tasks.create_task(save_all(writer, 100))
            events = [await stream.next(5) for _ in range(100)]
        assert events == await saved
        assert not stream.gaps
        await until(lambda: store.is_receiving)
        assert store._listener.connections > 1


async def save_all(store: PostgresStore, count: int) -> list[Event]:
    return [await store.save(Event("alice", "n", number)) for number in range(count)]


async def test_a_half_open_listener_is_replaced(make: Make, postgres: Server) -> None:
    """A listening connection that is cut off in silence is detected by a probe, and events arrive in between."""
    writer = await make(PostgresStore)
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        store = await make(PostgresStreamStore, listen_dsn=dsn, probe_interval=0.2)
        async with store.subscribe("alice") as stream:
            await until(lambda: store.is_receiving)
            proxy.up = proxy.down = Faults(blackhole=True)
            missed = await writer.save(Event("alice", "n"))
            await until(lambda: not store.is_receiving)
            assert await stream.next(10) == missed
            proxy.heal()
            await until(lambda: store.is_receiving)
            event = await writer.save(Event("alice", "n"))
            assert await stream.next(10) == event
        await store.aclose()


async def test_a_notify_that_fails_delays_only(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where NOTIFY fails (a full queue, say), pushes succeed, it is said once, and events come by the audit."""
    monkeypatch.setattr("notify._stream._catch_up.NOT_RECEIVING_INTERVAL", 0.2)
    writer, store = await make(PostgresStore), await make(PostgresStreamStore, probe_interval=0.2)
    for one in (writer, store):
        one._publisher._channel = "x" * 64  # the server refuses it
    async with store.subscribe("alice") as stream:
        events = await save_all(writer, 3)
        assert [await stream.next(10) for _ in range(3)] == events
    assert not store.is_receiving
    assert writer._publisher.failures > 1
    assert caplog.text.count("NOTIFY is failing") == 2


async def test_a_pooler_that_swallows_listen_is_found_out(
    make: Make, pgbouncer: Bouncer, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Through a pooler in transaction mode everything works but LISTEN; that is found out, said, and polled around."""
    store = await make(PostgresStreamStore, pgbouncer.dsn, probe_interval=0.3)
    assert store._db.is_pooled
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        writer = await make(PostgresStore)
        await until(lambda: "transaction mode" in caplog.text)
        events = [await writer.save(Event("alice", "n")), await notifier.push("alice", "n")]
        for event in events:
            assert await stream.next(10) == event
        assert not store.is_receiving


async def test_a_pooler_with_a_dsn_to_listen_at(make: Make, pgbouncer: Bouncer, postgres: Server) -> None:
    """With `listen_dsn` leading past the pooler, events arrive at once, hundreds of tasks share its connections."""
    store = await make(PostgresStreamStore, pgbouncer.dsn, listen_dsn=postgres.dsn)
    async with store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)
        other = await make(PostgresStore, pgbouncer.dsn)
        stored = await asyncio.gather(*(one.save(Event("alice", "n", n)) for n in range(200) for one in (store, other)))
        log = [await stream.next(5) for _ in stored]
        assert log == sorted(stored, key=lambda event: [*map(int, event.id.split("-"))])


async def test_a_pool_through_a_pooler(make: Make, pgbouncer: Bouncer) -> None:
    """A caller's own pool may lead through a pooler, if it prepares nothing by name."""
    async with asyncpg.create_pool(pgbouncer.dsn, min_size=0, max_size=4, statement_cache_size=0) as pool:
        store = await make(PostgresStore, pool)
        assert store._db.is_pooled
        assert len(await asyncio.gather(*(store.save(Event(f"u{n}", "n")) for n in range(50)))) == 50
        await store.aclose()


async def test_events_that_cannot_be_read_are_read_later(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """If the events of a wake message cannot be read, the streams read for themselves, until they succeed."""
    store, writer = await make(PostgresStreamStore), await make(PostgresStore)
    async with store.subscribe("alice") as stream:
        first = await writer.save(Event("alice", "n"))
        assert await stream.next(5) == first
        async with sql.transaction():
            await sql.execute(f"ALTER TABLE {schema}.notify_heads RENAME TO gone")
            await sql.execute("COMMIT")
            store._on_wake(f"another {short_key('alice')}")
            await anyio.sleep(0.1)
            await sql.execute("BEGIN")
            await sql.execute(f"ALTER TABLE {schema}.gone RENAME TO notify_heads")
        second = await writer.save(Event("alice", "n"))
        assert await stream.next(5) == second


async def test_a_burst_for_one_user_makes_its_streams_read(make: Make) -> None:
    """More new events than one catch-up reads are read page by page, by the streams themselves."""
    store, writer = await make(PostgresStreamStore), await make(PostgresStore)
    async with store.subscribe("alice") as stream:
        first = await writer.save(Event("alice", "n"))
        assert await stream.next(5) == first
        events = await writer.save_many([Event("alice", "n", number) for number in range(300)])
        assert [await stream.next(5) for _ in events] == [*events]


async def test_users_who_share_a_short_key_are_distinguished(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users with the same short key are both read, and each gets only their own events."""
    monkeypatch.setattr("notify_pg._stream_store.short_key", lambda _: "same")
    monkeypatch.setattr("notify_pg._store.short_key", lambda _: "same")
    store, writer = await make(PostgresStreamStore), await make(PostgresStore)
    async with store.subscribe("alice") as alice, store.subscribe("bob") as bob:
        event = await writer.save(Event("alice", "n"))
        assert await alice.next(5) == event
        await alice.aclose()
        event = await writer.save(Event("bob", "n"))
        assert await bob.next(5) == event


@pytest.mark.parametrize("failure", [BackendUnavailableError("no"), TimeoutError()])
async def test_audits_find_what_no_message_announced(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    """A store that streams without a notifier audits by itself, and survives an audit that fails."""
    monkeypatch.setattr("notify._stream._catch_up.AUDIT_INTERVAL", 0.1)
    monkeypatch.setattr("notify._stream._catch_up.NOT_RECEIVING_INTERVAL", 0.1)
    store, writer = await make(PostgresStreamStore), await make(PostgresStore)
    writer._saver._on_stored = lambda events: None  # it sends no wake messages
    catch_up = store.live._catch_up
    audit = catch_up.audit

    async def fail_once() -> None:
        monkeypatch.setattr(catch_up, "audit", audit)
        raise failure

    async with store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)
        monkeypatch.setattr(catch_up, "audit", fail_once)
        await until(lambda: "cannot be searched for missed events" in caplog.text)
        event = await writer.save(Event("alice", "n"))
        assert await stream.next(5) == event


def test_payloads_hold_as_many_keys_as_fit() -> None:
    """Thousands of keys take a few payloads, each within the server's limit."""
    keys = {short_key(f"user{number}") for number in range(5000)}
    payloads = pack_keys("tag", keys)
    assert all(len(payload) <= MAX_PAYLOAD < 8000 for payload in payloads)
    assert {key for payload in payloads for key in payload.split(" ")[1:]} == keys
    assert len(payloads) <= 6


# -- the router --------------------------------------------------------------------------------------------------------


async def test_an_event_too_large_to_route_is_left_to_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An event over `max_size` is dropped, counted and named; a smaller one in many pieces arrives."""
    router = await make(PostgresRouter, max_size=100_000)
    async with Notifier(None, router=router, instance_id="a", max_payload=10**6) as notifier:
        async with notifier.subscribe("alice") as stream:
            await router.route(Event("alice", "large", "x" * 100_000), None)
            await router.route(Event("alice", "small", "x" * 90_000), None)
            assert (await stream.next(5)).type == "small"
    assert router.dropped == 1
    assert "is not routed" in caplog.text


async def test_what_is_no_event_is_ignored(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Whatever else is said on the channel does no harm, nor do events of which a part is missing."""
    router = await make(PostgresRouter)
    async with Notifier(None, router=router, instance_id="a") as notifier, notifier.subscribe("alice") as stream:
        for payload in ("", "garbage", "* n 0 1 ???", "* n x 1 aa", "* n 0 1 aGVsbG8=", f"{short_key('b')} n 0 1 aa"):
            await sql.execute("SELECT pg_notify($1, $2)", f"{schema}.notify_route", payload)
        for number in range(100):
            await sql.execute("SELECT pg_notify($1, $2)", f"{schema}.notify_route", f"* part{number} 1 2 aa")
        await router.route(Event("alice", "n"), RoutingInfo("a"))
        assert (await stream.next(5)).type == "n"


async def test_a_router_listens_again(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """After its listening connection was killed, a router's notifier hears again."""
    router = await make(PostgresRouter, probe_interval=0.3)
    async with Notifier(None, router=router, instance_id="a") as notifier, notifier.subscribe("alice") as stream:
        (pid,) = await listeners(sql, schema)
        await sql.execute("SELECT pg_terminate_backend($1)", pid)

        async def hears() -> bool:
            await router.route(Event("alice", "n"), None)
            try:
                await stream.next(0.1)
            except TimeoutError:
                return False
            return True

        await until(hears)


async def test_a_router_without_a_server(schema: str) -> None:
    """A route that cannot be sent raises, for the notifier to count; closing ends those under way."""
    router = PostgresRouter("postgresql://postgres@127.0.0.1:1/postgres", schema=schema, timeout=0.2)
    async with router:
        with pytest.raises(BackendUnavailableError):
            await router.route(Event("alice", "n"), None)
    with pytest.raises(ClosedError):
        await router.route(Event("alice", "n"), None)


async def test_closing_a_router_ends_its_routes(make: Make, sql: asyncpg.Connection, postgres: Server) -> None:
    """A route under way when the router closes ends with an error: it never hangs."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        router = PostgresRouter(postgres.dsn.replace(str(postgres.port), str(proxy.port)))
        await router.route(Event("alice", "n"), None)
        proxy.up = Faults(blackhole=True)
        routes = [asyncio.ensure_future(router.route(Event("alice", "n"), None)) for _ in range(2)]
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await router.aclose()
            outcomes = await asyncio.gather(*routes, return_exceptions=True)
        assert all(isinstance(outcome, ClosedError | BackendUnavailableError) for outcome in outcomes)


# -- presence ----------------------------------------------------------------------------------------------------------


async def test_presence_outlives_a_server_that_lost_it(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """Rows that vanish with their lease, as in a crash, or that no tracker wrote, are put right by the next renewal."""
    tracker, other = await make(PostgresPresence, ttl=0.3), await make(PostgresPresence, ttl=0.3)
    await tracker.register("alice", RoutingInfo("a"))
    await sql.execute(f"TRUNCATE {schema}.notify_trackers, {schema}.notify_presence")
    await until(lambda: is_at(other, "alice", ["a"]))
    await sql.execute(
        f"INSERT INTO {schema}.notify_presence SELECT 'ghost', tracker, 'x', '{{}}' FROM {schema}.notify_trackers"
    )
    await until(lambda: is_at(other, "ghost", []))


async def is_at(tracker: PostgresPresence, user: str, instances: list[str]) -> bool:
    located = await tracker.locate([user])
    return [to.instance_id for to in located.get(user, ())] == instances


async def test_the_dead_are_swept_away(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """What dead processes have left is removed from the tables by those that live."""
    dead, tracker = await make(PostgresPresence, ttl=0.2), await make(PostgresPresence, ttl=0.2)
    await dead.register("bob", RoutingInfo("b"))
    await dead._keeper.abandon()
    await tracker.register("alice", RoutingInfo("a"))

    async def is_swept() -> bool:
        return await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_presence") == 1

    await until(is_swept)


async def test_presence_without_a_server(postgres: Server, schema: str) -> None:
    """Registering fails while the server is away; what was registered ends without an error, and heals."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        options: dict[str, Any] = {"schema": schema, "timeout": 3.0, "ttl": 0.6}
        other = PostgresPresence(postgres.dsn, schema=schema)
        async with aclosing(PostgresPresence(dsn, **options)) as tracker, aclosing(other):
            kept, ended = [await tracker.register("alice", RoutingInfo(name)) for name in "ab"]
            await proxy.refuse()
            await proxy.reset()
            with pytest.raises(BackendUnavailableError):
                await tracker.register("bob", RoutingInfo("a"))
            with pytest.raises(BackendUnavailableError):
                await tracker.locate(["alice"])
            await ended.aclose()
            proxy.heal()
            await until(lambda: is_at(other, "alice", ["a"]))
            assert await is_at(tracker, "bob", [])
            await kept.aclose()
            await proxy.refuse()
            await proxy.reset()
            await tracker.aclose()
            await kept.aclose()


async def test_registrations_that_wait_end_when_the_tracker_closes(postgres: Server, schema: str) -> None:
    """A registration under way while the tracker closes ends with an error: it never hangs."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        tracker = PostgresPresence(postgres.dsn.replace(str(postgres.port), str(proxy.port)), schema=schema)
        async with tracker:
            await tracker.register("alice")
            tracker._db.timeout = 1.0
            proxy.down = Faults(blackhole=True)
            waiting = [asyncio.ensure_future(tracker.register(user)) for user in ("bob", "carol")]
            await anyio.sleep(0.05)
            waiting.append(asyncio.ensure_future(tracker.register("dave")))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, ClosedError | BackendUnavailableError) for outcome in outcomes)
