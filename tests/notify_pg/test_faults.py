"""Killed, frozen and cut-off servers and processes, judged by the history checker."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from notify import Event, Notifier, NotifyError, PushRejectedError, PushUncertainError
from notify.testing import FaultProxy, Faults, History
from notify.testing._waits import assert_chain
from notify_pg import PostgresStore, PostgresStreamStore
from notify_pg._errors import PostgresDisposition, disposition_of
from tests.parts import until, untraced_environment
from tests.servers.postgres import Server, running

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that the tests of this module kill and freeze; each leaves it running."""
    with running("max_prepared_transactions = 0") as server:
        yield server


def through(proxy: FaultProxy, server: Server) -> str:
    return server.dsn.replace(str(server.port), str(proxy.port))


async def settled(store: PostgresStore) -> None:
    """Save once and wait until the wake message was sent, so that a connection is there and idle."""
    await store.save(Event("bob", "n"))
    await until(lambda: not store._publisher._is_sending)


class Crowd:
    """Writers that push numbers, and readers that judge what they get."""

    def __init__(self, history: History, notifier: Notifier, users: int = 3) -> None:
        self.history = history
        self.notifier = notifier
        self.users = [f"user{number}" for number in range(users)]
        self.stopped = False
        self.stored = 0

    async def write(self, user: str, writer: str) -> None:
        number = 0
        while not self.stopped:
            number += 1
            try:
                with self.history.pushing(user, f"{writer}-{number}") as attempt:
                    event = await self.notifier.push(user, "n", f"{writer}-{number}")
                    assert event is not None
                    attempt.ok(event.id)
                    self.stored += 1
            except NotifyError:
                await anyio.sleep(0.02)

    async def read(self, user: str) -> None:
        reader = self.history.reader(user, "0")
        async with self.notifier.subscribe(user, "0", signals=True) as stream:
            async for event in stream:
                if event.type == "notify.gap":
                    reader.gap(event.payload["reason"], event.payload["from"], event.payload["to"])
                elif event.type == "n":
                    reader.event(event, event.payload)

    async def stored_more(self, count: int = 20) -> None:
        """Wait until pushes succeed again."""
        goal = self.stored + count
        await until(lambda: self.stored >= goal, 30)


@asynccontextmanager
async def crowd(notifier: Notifier, history: History) -> Any:
    """Run writers and readers around a fault; in the end every reader has everything, and the history is judged."""
    crowd = Crowd(history, notifier)
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(crowd.read(user)) for user in crowd.users]
        writers = [tasks.create_task(crowd.write(user, f"{user}-{n}")) for user in crowd.users for n in range(3)]
        await crowd.stored_more()
        yield crowd
        await crowd.stored_more()
        crowd.stopped = True
        await asyncio.wait(writers)
        with anyio.fail_after(30):
            while not history.check().ok:  # noqa: ASYNC110 - the readers catch up
                await anyio.sleep(0.05)
        for reader in readers:
            reader.cancel()
    history.assert_ok()


async def test_a_killed_server(server: Server, schema: str) -> None:
    """The server is killed during pushes and started again: nothing accepted is lost, readers resume, no gap."""
    history = History()
    async with PostgresStreamStore(server.dsn, schema=schema, probe_interval=0.5, timeout=2) as store:
        async with Notifier(store) as notifier, crowd(notifier, history) as around:
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            await around.stored_more()
            await until(lambda: store.is_receiving, 10)


async def test_a_restarted_server_that_ends_its_connections(server: Server, schema: str) -> None:
    """Connections that an administrator ends, all of them again and again, cost no event and no order."""
    history = History()
    control = await asyncpg.connect(server.dsn)
    async with PostgresStreamStore(server.dsn, schema=schema, probe_interval=0.5) as store:
        async with Notifier(store) as notifier, crowd(notifier, history) as around:
            for _ in range(5):
                await control.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
                )
                await around.stored_more(5)
    await control.close()


async def test_a_frozen_server(server: Server, schema: str) -> None:
    """A server that stops for 15 seconds and then executes late what it was sent: nothing is stored twice.

    With the defaults of everything, that nothing is heard any more is known within ten seconds.
    """
    history = History()
    async with PostgresStreamStore(server.dsn, schema=schema) as store, Notifier(store) as notifier:
        async with crowd(notifier, history) as around:
            await until(lambda: store.is_receiving, 10)
            server.freeze()
            try:
                began = anyio.current_time()
                await until(lambda: not store.is_receiving, 12)
                assert anyio.current_time() - began < 11
                await anyio.sleep_until(began + 15)  # the fault itself lasts so long
            finally:
                server.thaw()
            await around.stored_more()
            await until(lambda: store.is_receiving, 20)


async def test_an_attempt_that_is_executed_too_late_stores_nothing(server: Server, schema: str) -> None:
    """A push to a frozen server is uncertain; when the server goes on, its deadline has passed: the log is empty."""
    async with PostgresStore(server.dsn, schema=schema) as store:
        await settled(store)
        store._db.timeout = 0.6
        server.freeze()
        try:
            with anyio.fail_after(20), pytest.raises(PushUncertainError):
                await store.save(Event("alice", "n"))
        finally:
            server.thaw()
        store._db.timeout = 20
        await store.save(Event("bob", "n"))
        assert await store.head("alice") == "0"


async def test_a_lost_reply_stores_once(server: Server, schema: str) -> None:
    """The reply to a save is lost, three times in a row: the attempt that is repeated finds the event stored."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema) as store:
            await store.save(Event("bob", "n"))
            proxy.drop_reply(request=b"marked", times=3)
            event = await store.save(Event("alice", "n", "marked"))
            assert proxy.lost_replies == 3
            assert [*(await store.read("alice", "0", 10)).events] == [event]


async def test_a_lost_reply_to_a_batch_with_keys(server: Server, schema: str) -> None:
    """A batch whose reply is lost returns what it has stored, and the first events of the keys it repeated."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema) as store:
            first = await store.save(Event("alice", "n", 1, key="k"))
            drafts = [
                Event("alice", "n", 2, key="k"), Event("alice", "n", 3, key="l"), Event("alice", "n", 4),
                Event("alice", "n", 5, key="l"), Event("bob", "n", "marked"),
            ]  # fmt: skip
            proxy.drop_reply(request=b"marked")
            outcomes = await store.save_many(drafts)
            assert proxy.lost_replies == 1
            assert [outcome.payload for outcome in outcomes if isinstance(outcome, Event)] == [1, 3, 4, 3, "marked"]
            assert [event.payload for event in (await store.read("alice", "0", 10)).events] == [1, 3, 4]
            assert outcomes[0] == first
            assert_chain([*(await store.read("alice", "0", 10)).events])


async def test_a_stored_batch_that_was_trimmed_before_its_reply(server: Server, schema: str) -> None:
    """Where the reply is lost and the batch trims its own events, those that are gone are uncertain."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema, max_len=3) as store:
            await store.save(Event("bob", "n"))
            proxy.drop_reply(request=b"marked")
            outcomes = await store.save_many([Event("alice", "n", f"marked {number}") for number in range(10)])
            assert [type(outcome) for outcome in outcomes] == [PushUncertainError] * 7 + [Event] * 3


async def test_the_first_event_of_a_key_that_cannot_be_read(server: Server, schema: str) -> None:
    """A repeated key whose first event cannot be fetched is an error that says to repeat; nothing is stored."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema) as store:
            await store.save(Event("marked", "n", 1, key="k"))
            store._db.timeout = 1.5
            fetch = store._db.fetch

            async def cut(query: str, *args: object) -> list[Any]:
                proxy.down = Faults(blackhole=True)
                return await fetch(query, *args)

            store._db.fetch = cut  # type: ignore[method-assign]
            with pytest.raises(NotifyError):
                await store.save(Event("marked", "n", 2, key="k"))
            store._db.fetch = fetch  # type: ignore[method-assign]
            proxy.heal()
            assert len((await store.read("marked", "0", 10)).events) == 1


async def test_a_reply_that_vanishes(server: Server, schema: str) -> None:
    """A reply that never comes is given up within half the time, and the second attempt finds the event stored."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema) as store:
            await settled(store)
            store._db.timeout = 2.0
            proxy.down = Faults(blackhole=True)
            save = asyncio.ensure_future(store.save(Event("alice", "n")))
            await until(lambda: proxy.swallowed)
            proxy.heal()
            with anyio.fail_after(20):
                event = await save
            assert [*(await store.read("alice", "0", 10)).events] == [event]


async def test_a_network_that_stays_silent(server: Server, schema: str) -> None:
    """While nothing comes back at all, every push has its verdict in time: uncertain; later there is at most one."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema) as store:
            await settled(store)
            store._db.timeout = 0.6
            proxy.down = Faults(blackhole=True)
            with anyio.fail_after(20), pytest.raises(PushUncertainError):
                await store.save(Event("alice", "n"))
            proxy.heal()
            store._db.timeout = 20
            await store.save(Event("bob", "n"))
            assert len((await store.read("alice", "0", 10)).events) <= 1


async def test_a_crash_that_takes_the_nonces_along(server: Server, schema: str) -> None:
    """The server crashes after a commit and before the reply: the table of attempts is empty, the event is found."""
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        async with PostgresStore(through(proxy, server), schema=schema, timeout=20) as store:
            await store.save(Event("bob", "n"))
            proxy.down = Faults(blackhole=True)
            save = asyncio.ensure_future(store.save(Event("alice", "n")))
            await until(lambda: proxy.swallowed)
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            await proxy.reset()
            proxy.heal()
            event = await save
            assert [*(await store.read("alice", "0", 10)).events] == [event]


async def test_a_clock_that_jumped_between_two_saves(server: Server, schema: str) -> None:
    """After the server's clock has stepped, either way, the fence adapts and the push succeeds."""
    async with PostgresStore(server.dsn, schema=schema) as store:
        await store.save(Event("alice", "n"))
        for seconds in (-7200, 7200):
            store._db._clock_offset += seconds * 1_000_000
            assert (await store.save(Event("alice", "n"))).id


async def test_a_fence_that_never_fits_rejects(server: Server, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every deadline has passed by the server's clock, the push is rejected: it is certainly not stored."""
    async with PostgresStore(server.dsn, schema=schema) as store:
        await store.save(Event("bob", "n"))
        monkeypatch.setattr(store._db, "server_micros", lambda moment: 1)
        with pytest.raises(PushRejectedError):
            await store.save(Event("alice", "n"))
        assert await store.head("alice") == "0"


async def test_cut_connections_of_every_kind(server: Server, schema: str) -> None:
    """While one connection after the other is reset, and replies are lost, histories stay whole."""
    history = History()
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        dsn = through(proxy, server)
        async with PostgresStreamStore(dsn, schema=schema, probe_interval=0.5) as store, Notifier(store) as notifier:
            async with crowd(notifier, history) as around:
                for number in range(6):
                    await proxy.reset()
                    proxy.drop_reply(nth=number + 1, times=2)
                    await around.stored_more(10)
                proxy.heal()


WRITER = """
import anyio, sys
from pathlib import Path
from notify import Notifier
from notify.testing import History
from notify_pg import PostgresStore

async def main(dsn, schema, name, path):
    with History(Path(path)) as history:
        async with PostgresStore(dsn, schema=schema, max_len=1_000_000) as store, Notifier(store) as notifier:
            print("ready", flush=True)
            async def write(writer):
                for number in range(100_000):
                    value = f"{name}-{writer}-{number}"
                    with history.pushing("alice", value) as attempt:
                        event = await notifier.push("alice", "n", value)
                        attempt.ok(event.id)
            async with anyio.create_task_group() as tasks:
                for writer in range(3):
                    tasks.start_soon(write, writer)

anyio.run(main, *sys.argv[1:])
"""


async def test_killed_processes(server: Server, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes push to one user and are killed: each event that they know is stored is read, in one chain.

    What they had stored and not announced when they died is found by the audit.
    """
    monkeypatch.setattr("notify._stream._catch_up.AUDIT_INTERVAL", 1.0)
    paths = [tmp_path / f"{number}.history" for number in range(2)]
    processes = []
    async with PostgresStreamStore(server.dsn, schema=schema) as store, store.subscribe("alice", "0") as stream:
        for number, path in enumerate(paths):
            command = [sys.executable, "-c", WRITER, server.dsn, schema, f"p{number}", str(path)]
            environment = {**untraced_environment(), "PYTHONPATH": str(ROOT)}
            process = await anyio.open_process(command, cwd=ROOT, env=environment)
            processes.append(process)
            assert process.stdout is not None
            await process.stdout.receive()
        with History(tmp_path / "reader.history") as reading:
            reader = reading.reader("alice", "0")
            events: list[Event] = []
            while len(events) < 200:
                events.append(await stream.next(20))
                reader.event(events[-1], events[-1].payload)
            for process in processes:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                await process.aclose()
            head = await store.head("alice")
            while stream.last_id != head:
                events.append(await stream.next(10))
                reader.event(events[-1], events[-1].payload)
        assert_chain(events)
        async with store.subscribe("alice", events[10].id) as resumed:
            assert await resumed.next(5) == events[11]
    History.load(tmp_path / "reader.history", killed=paths).assert_ok()


async def states(connection: asyncpg.Connection, *codes: str) -> list[PostgresDisposition]:
    found = []
    for code in codes:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.execute(f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{code}'; END $$")
        found.append(disposition_of(caught.value))
    return found


async def test_every_error_has_its_disposition(server: Server) -> None:
    """Errors as the server really raises them are distinguished: repeated, refused or unknown."""
    connection = await asyncpg.connect(server.dsn)
    assert set(await states(connection, "40001", "40P01")) == {PostgresDisposition.CONFLICT}
    assert set(await states(connection, "25006")) == {PostgresDisposition.READ_ONLY}
    assert set(await states(connection, "42P01", "42883", "3F000")) == {PostgresDisposition.UNPREPARED}
    assert set(await states(connection, "NT001")) == {PostgresDisposition.LATE}
    assert set(await states(connection, "57P01", "57P02", "08006", "58030")) == {PostgresDisposition.LOST}
    assert set(await states(connection, "53100", "53200", "55P03", "57014", "42501", "22P05", "XX000")) == {
        PostgresDisposition.REFUSED
    }
    with pytest.raises(asyncpg.DataError) as unencodable:
        await connection.fetch("SELECT $1::bigint", "not a number")
    assert disposition_of(unencodable.value) is PostgresDisposition.REFUSED
    connection.terminate()
    for call in (connection.execute, connection.fetch):
        await assert_unsent(call)
    assert disposition_of(TimeoutError()) is disposition_of(ConnectionResetError()) is PostgresDisposition.LOST


async def assert_unsent(call: Callable[[str], Awaitable[Any]]) -> None:
    with pytest.raises(asyncpg.InterfaceError) as caught:
        await call("SELECT 1")
    assert disposition_of(caught.value) is PostgresDisposition.UNSENT


async def test_too_many_connections_are_waited_out(server: Server, schema: str) -> None:
    """While the server has no connection to give, pushes wait; they succeed as soon as there is one."""
    async with aclosing(PostgresStore(server.dsn, schema=schema, timeout=20)) as store:
        await store.save(Event("bob", "n"))
        control = await asyncpg.connect(server.dsn)
        await control.execute("CREATE ROLE poor LOGIN CONNECTION LIMIT 1")
        await control.execute(f"GRANT ALL ON SCHEMA {schema} TO poor")
        await control.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO poor")
        dsn = server.dsn.replace("postgres@", "poor@")
        blocker = await asyncpg.connect(dsn)
        async with aclosing(PostgresStore(dsn, schema=schema, timeout=20, pool_size=1)) as poor:
            save = asyncio.ensure_future(poor.save(Event("alice", "n")))
            await anyio.sleep(0.2)
            assert not save.done()
            await blocker.close()
            assert (await save).prev == "0"
        await control.execute("DROP OWNED BY poor; DROP ROLE poor")
        await control.close()
