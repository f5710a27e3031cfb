"""What a call costs while the server is gone, frozen, cut off or starting, and with fewer connections than wished."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import anyio
import asyncpg
import pytest

from notify import (
    BackendUnavailableError,
    Background,
    Event,
    Notifier,
    NotifyError,
    PushRejectedError,
    PushUncertainError,
)
from notify.testing import FaultProxy, Faults
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_pg._errors import UnreachableError, is_unreachable
from notify_pg._reachable import Reachability, ServerWatch, reachability_of
from tests.notify_pg.conftest import Make
from tests.parts import until
from tests.servers.postgres import Server, free_port, running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

QUICK = 0.3
"""Seconds that a call may take while the server is known to be unreachable; one that waits takes one or four."""


ONE_WAIT = 3.0
"""Seconds, on any machine, for a call that waits a second for a restart, and not for its timeout, which is 4."""

ONE_TIMEOUT = 7.0
"""Seconds, on any machine, for a call that waits for its timeout, and not twice."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that is frozen, stopped and started; each test leaves it running."""
    with running() as server:
        yield server


@asynccontextmanager
async def parts(dsn: str, schema: str, **options: Any) -> AsyncIterator[dict[str, Callable[[], Awaitable[Any]]]]:
    """Calls of every part, by name."""
    async with (
        aclosing(PostgresStreamStore(dsn, schema=schema, **options)) as store,
        aclosing(PostgresPresence(dsn, schema=schema, **options)) as presence,
        aclosing(PostgresRouter(dsn, schema=schema, **options)) as router,
    ):
        yield {
            "save": lambda: store.save(Event("alice", "n")),
            "save_many": lambda: store.save_many([Event("alice", "n"), Event("bob", "n")]),
            "read": lambda: store.read("alice", "0", 10),
            "read_many": lambda: store.read_many({"alice": "0"}, 10),
            "head": lambda: store.head("alice"),
            "locate": lambda: presence.locate(["alice"]),
            "route": lambda: router.route(Event("alice", "n"), None),
        }


async def cost_of(call: Callable[[], Awaitable[Any]]) -> float:
    """Return the seconds until a call has failed."""
    began = time.perf_counter()
    try:
        outcome = await call()
    except (BackendUnavailableError, PushRejectedError, PushUncertainError):
        pass
    else:
        assert isinstance(outcome, list)
        assert all(isinstance(each, PushRejectedError) for each in outcome), outcome
    return time.perf_counter() - began


async def least(call: Callable[[], Awaitable[Any]]) -> float:
    """Return the smallest of a few costs: on a busy machine, any one may take long."""
    return min([await cost_of(call) for _ in range(5)])


async def works(call: Callable[[], Awaitable[Any]]) -> bool:
    try:
        outcome = await call()
    except NotifyError:
        return False
    return not isinstance(outcome, list) or not isinstance(outcome[0], NotifyError)


async def assert_fails_fast(calls: dict[str, Callable[[], Awaitable[Any]]], first: str, bound: float) -> None:
    """The first failure takes no longer than `bound`; from then on every call of every part fails at once."""
    assert await cost_of(calls[first]) < bound
    for _ in range(3):
        costs = {name: await least(call) for name, call in calls.items()}
        assert max(costs.values()) < QUICK, costs
    began = time.perf_counter()
    await asyncio.gather(*(cost_of(call) for call in calls.values() for _ in range(20)))
    assert time.perf_counter() - began < 40 * QUICK


@pytest.mark.parametrize("first", ["save", "read", "locate", "route"])
async def test_a_server_that_refuses(schema: str, first: str) -> None:
    """Where nothing listens, the first call waits a second for a restart; then everything fails at once."""
    async with parts(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", schema) as calls:
        await assert_fails_fast(calls, first, ONE_WAIT)


@pytest.mark.parametrize("first", ["save", "head"])
async def test_a_server_that_is_cut_off(server: Server, schema: str, first: str) -> None:
    """Behind a firewall that drops everything, the first call takes its timeout; then everything fails at once."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        full = [socket.socket() for _ in range(3)]  # the queue is full: a further connection gets no answer
        for each in full:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        async with parts(f"postgresql://postgres@127.0.0.1:{deaf.getsockname()[1]}/postgres", schema) as calls:
            await assert_fails_fast(calls, first, ONE_TIMEOUT)
        for each in full:
            each.close()


async def test_a_name_that_is_not_known(schema: str) -> None:
    """A host that the name service does not know is an address that cannot be reached."""
    async with parts("postgresql://postgres@no.such.host.invalid/postgres", schema) as calls:
        await cost_of(calls["head"])
        await assert_fails_fast(calls, "save", ONE_WAIT)


@pytest.mark.parametrize("first", ["save", "read"])
async def test_a_frozen_server(server: Server, schema: str, first: str) -> None:
    """Of a server that stops in the middle, the first call takes its timeout, and the rest nothing."""
    async with parts(server.dsn, schema) as calls:
        for call in calls.values():
            await call()
        await anyio.sleep(0.1)
        server.freeze()
        try:
            await assert_fails_fast(calls, first, ONE_TIMEOUT)
        finally:
            server.thaw()
        for call in calls.values():
            await until(lambda call=call: works(call), 10)


async def test_a_server_that_comes_back(server: Server, schema: str) -> None:
    """A probe in the background notices that the server is back: the next call works, of every part."""
    async with parts(server.dsn, schema) as calls:
        for call in calls.values():
            await call()
        await anyio.to_thread.run_sync(server.kill)
        await assert_fails_fast(calls, "head", ONE_WAIT)
        assert isinstance(reachability_of(server.dsn).error, UnreachableError)
        await anyio.to_thread.run_sync(server.start)
        await until(lambda: reachability_of(server.dsn).error is None, 10)
        for call in calls.values():
            assert await works(call)


async def test_a_restart_of_a_second(server: Server, schema: str) -> None:
    """Pushes and reads of which nothing was sent wait for a server that comes back within a second, and succeed."""
    async with PostgresStore(server.dsn, schema=schema) as store:
        await store.save(Event("alice", "n"))
        await until(lambda: not store._publisher._is_sending)
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            port = proxy.port
        dsn = server.dsn.replace(str(server.port), str(port))
        async with aclosing(PostgresStore(dsn, schema=schema)) as other:
            push = asyncio.ensure_future(other.save(Event("alice", "n")))
            read = asyncio.ensure_future(other.head("alice"))
            await anyio.sleep(0.2)
            assert not push.done()
            assert not read.done()
            async with relay(port, server.port):
                assert (await push).prev != "0"
                assert await read
                await other.aclose()


@asynccontextmanager
async def relay(port: int, to: int) -> AsyncIterator[None]:
    """Forward connections from one port to another."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)
        far_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        yield


async def test_a_call_knocks(server: Server, schema: str) -> None:
    """Where the probe of the outage hangs in silence, the next call finds a server that is back by itself."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        dsn = server.dsn.replace(str(server.port), str(proxy.port))
        async with aclosing(PostgresStore(dsn, schema=schema)) as store:
            await store.save(Event("alice", "n"))
            proxy.down = Faults(blackhole=True)
            proxy.up = Faults(blackhole=True)
            await cost_of(lambda: store.head("alice"))
            assert await least(lambda: store.head("alice")) < QUICK
            proxy.heal()
            await until(lambda: works(lambda: store.head("alice")), ONE_WAIT)


async def refused() -> None:
    raise asyncpg.PostgresError.new({"C": "28P01", "M": "password authentication failed"})


async def away() -> None:
    raise ConnectionRefusedError


async def test_a_server_that_refuses_a_login_is_there() -> None:
    """A probe, or a knock, that is refused for a reason of its own has reached the server."""
    server, background = Reachability(), Background("test")
    server.doubt(ConnectionRefusedError(), time.monotonic() - 5, background, refused)
    assert server.error is not None
    await until(lambda: server.error is None)
    server.doubt(ConnectionRefusedError(), time.monotonic() - 5, background, away)
    await server.knock(background, away)
    assert server.error is not None
    server._knocked = 0.0
    await server.knock(background, refused)
    assert server.error is None
    await background.aclose(1)


async def test_a_watch_that_is_closed_starts_nothing() -> None:
    """What a timer asks for after the end is not done."""
    watch = ServerWatch("test", "test", lambda _: away(), lambda: 4.0, asks=True)
    await watch.aclose()
    watch.start(away)
    assert watch._tasks.running == 0


async def test_pushes_that_wait_fail_with_the_rest(schema: str) -> None:
    """Pushes that are queued when the server is found to be unreachable are rejected then: nothing was sent."""
    async with aclosing(PostgresStore(f"postgresql://postgres@127.0.0.1:{free_port()}/x", schema=schema)) as store:
        began = time.perf_counter()
        saves = [store.save(Event(f"user{number % 7}", "n")) for number in range(1000)]
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PushRejectedError}
        assert time.perf_counter() - began < ONE_WAIT
        assert not store._saver._queue._users


async def test_a_server_that_starts(server: Server, schema: str) -> None:
    """ "The database system is starting up" and "is shutting down" mean that the server is away, not a refusal."""
    for state in ("57P03", "57P01", "57P02"):
        assert is_unreachable(asyncpg.PostgresError.new({"C": state, "M": "starting up"}))
    for state in ("53300", "28P01", "3D000", "42501"):
        assert not is_unreachable(asyncpg.PostgresError.new({"C": state, "M": "no"}))
    assert not is_unreachable(TimeoutError())
    assert is_unreachable(TimeoutError(110, "Connection timed out"))


async def test_a_part_that_closes_while_it_probes(schema: str) -> None:
    """Where the part whose task probes is closed, another one finds out for itself, and its own task probes then."""
    dsn = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    async with (
        aclosing(PostgresStore(dsn, schema=schema)) as first,
        aclosing(PostgresStore(dsn, schema=schema)) as other,
    ):
        await cost_of(lambda: first.head("alice"))
        assert reachability_of(dsn).error is not None
        await first.aclose()
        assert reachability_of(dsn).error is None
        assert await cost_of(lambda: other.head("alice")) < 1.8
        assert await least(lambda: other.head("alice")) < QUICK


async def test_a_slow_statement_is_no_outage(make: Make) -> None:
    """A statement that takes long does not make the server unreachable; it is looked at once."""
    store = await make(timeout=4)
    rows = await store._db.fetch("SELECT pg_sleep(2.2)")
    assert rows
    assert store._db.watch.error is None


async def test_a_given_pool_fails_fast_too(server: Server, schema: str) -> None:
    """The same with the caller's own pool, which is told by its object."""
    async with asyncpg.create_pool(server.dsn, min_size=0, max_size=3) as pool:
        async with aclosing(PostgresStore(pool, schema=schema)) as store:
            await store.save(Event("alice", "n"))
            await anyio.to_thread.run_sync(server.kill)
            assert await cost_of(lambda: store.save(Event("alice", "n"))) < 5
            await cost_of(lambda: store.head("alice"))
            assert await least(lambda: store.save(Event("alice", "n"))) < QUICK
            await anyio.to_thread.run_sync(server.start)
            await until(lambda: works(lambda: store.head("alice")), 10)


# -- starting without the server ---------------------------------------------------------------------------------------


async def test_an_application_that_starts_first(server: Server, schema: str) -> None:
    """Without `async with` around the parts, an application starts before the server, and works later."""
    await anyio.to_thread.run_sync(server.kill)
    try:
        store = PostgresStreamStore(server.dsn, schema=schema, probe_interval=0.5)
        presence, router = PostgresPresence(server.dsn, schema=schema), PostgresRouter(server.dsn, schema=schema)
        for part in (store, presence):
            with pytest.raises(BackendUnavailableError):
                await part.__aenter__()
        notifier = Notifier(store, presence=presence, router=router)
        assert not (await notifier.check()).ok
        stream = notifier.subscribe("alice", "0")
        with pytest.raises(PushRejectedError):
            await notifier.push("alice", "n")
    finally:
        await anyio.to_thread.run_sync(server.start)
    await until(lambda: works(lambda: notifier.push("alice", "n")), 15)
    assert (await stream.next(20)).type == "n"
    await notifier.aclose()
    for each in (store, presence, router):
        await each.aclose()


# -- fewer connections than wished -------------------------------------------------------------------------------------


@asynccontextmanager
async def limited(server: Server, schema: str, limit: int) -> AsyncIterator[str]:
    """The DSN of a role that may open so few connections."""
    control = await asyncpg.connect(server.dsn)
    await control.execute(
        f"CREATE ROLE few{schema} LOGIN CONNECTION LIMIT {limit}; CREATE SCHEMA {schema} AUTHORIZATION few{schema}"
    )
    yield server.dsn.replace("postgres@", f"few{schema}@")
    await control.execute(f"DROP OWNED BY few{schema}; DROP ROLE few{schema}")
    await control.close()


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_fewer_connections_than_the_pool_wants(server: Server, schema: str, limit: int) -> None:
    """Reads and pushes share the connections that the role gets; none fails because there is no further one."""
    async with limited(server, schema, limit) as dsn, PostgresStore(dsn, schema=schema) as store:
        await store.save(Event("alice", "n", 1))
        outcomes: Counter[str] = Counter()

        async def read() -> None:
            outcomes[type(await store.read("alice", "0", 10)).__name__] += 1

        async def push(number: int) -> None:
            outcomes[type(await store.save(Event(f"user-{number}", "n", 1))).__name__] += 1

        for _ in range(10):
            await asyncio.gather(*(read() for _ in range(40)), *(push(number) for number in range(20)))
        assert outcomes == {"Page": 400, "Event": 200}


@pytest.mark.parametrize("limit", [2, 4])
async def test_streams_on_few_connections(server: Server, schema: str, limit: int) -> None:
    """A stream store keeps one of the connections to listen, and works with the rest."""
    async with limited(server, schema, limit) as dsn, PostgresStreamStore(dsn, schema=schema) as store:
        async with store.subscribe("alice") as stream:
            await until(lambda: store.is_receiving, 10)
            events = await asyncio.gather(*(store.save(Event("alice", "n", number)) for number in range(20)))
            assert [await stream.next(5) for _ in events] == events
            await asyncio.gather(*(store.read("alice", "0", 10) for _ in range(50)))


async def test_no_connection_at_all(server: Server, schema: str) -> None:
    """Where there is none to wait for, a read fails at once and names the option; a push waits for one."""
    async with limited(server, schema, 0) as dsn, aclosing(PostgresStore(dsn, schema=schema, timeout=4)) as store:
        began = time.perf_counter()
        with pytest.raises(BackendUnavailableError, match=r"refused the connection.*pool_size="):
            await store.head("alice")
        assert time.perf_counter() - began < 3
        with pytest.raises(PushRejectedError, match="pool_size="):
            await store.save(Event("alice", "n"))
        assert store._db.watch.error is None


async def test_connections_that_others_take(server: Server, schema: str) -> None:
    """A read that waits too long for a connection that is in use says why there is no other one."""
    async with limited(server, schema, 1) as dsn, PostgresStore(dsn, schema=schema, timeout=1) as store:
        await store.save(Event("alice", "n"))
        long = asyncio.ensure_future(store._db.fetch("SELECT pg_sleep(0.9)"))
        await anyio.sleep(0.05)
        store._db.timeout = 0.4
        with pytest.raises(BackendUnavailableError, match=r"too many connections.*pool_size="):
            await store.head("alice")
        await long


async def test_a_given_pool_that_wants_more(server: Server, schema: str, stack: AsyncExitStack) -> None:
    """The caller's pool is waited for as well, where it holds connections."""
    async with limited(server, schema, 2) as dsn:
        async with (
            asyncpg.create_pool(dsn, min_size=0, max_size=8) as pool,
            PostgresStore(pool, schema=schema) as store,
        ):
            await store.save(Event("alice", "n"))
            await asyncio.gather(*(store.read("alice", "0", 10) for _ in range(40)))
    async with limited(server, f"{schema}x", 0) as dsn:
        async with asyncpg.create_pool(dsn, min_size=0, max_size=8) as pool:
            store = PostgresStore(pool, schema=schema, timeout=1)
            with pytest.raises(BackendUnavailableError, match="pool_size="):
                await store.head("alice")
            await store.aclose()
