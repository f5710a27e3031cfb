"""Tickets on every backend: one use, one origin, a short life, and nothing that a reader of the store could use."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, Event, Page, Store, ids
from notify._asgi import Identity, WebError
from notify.web import _tickets as tickets_module
from notify.web._login import Client
from notify.web._open_tickets import OpenTickets
from notify.web._tickets import Tickets
from notify_memory import MemoryStore
from notify_pg import PostgresStore
from notify_redis import RedisStore
from notify_sqlite import SQLiteStore
from tests.parts import PlainStore, until
from tests.servers.postgres import fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server as RedisServer
from tests.servers.redis import single

pytestmark = pytest.mark.anyio

BACKENDS = ["memory", "sqlite", "redis", "postgres"]
ORIGIN = "https://app.example"
ALICE = Client(Identity("alice", ("topic-1", "topic-2"), datetime(2099, 1, 1, tzinfo=UTC), "session-1"), "login-1")
BOB = Client(Identity("bob"), "login-2")

Open = Callable[[], Awaitable[Store]]


def anyone(origin: str) -> bool:
    return True


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with single() as server:
        yield server


@pytest.fixture(params=BACKENDS)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same storage once more, as another process would; the memory store is one for all."""
    name, one, kind = fresh_schema(), MemoryStore(), request.param
    server: Any = request.getfixturevalue(kind) if kind in {"redis", "postgres"} else None
    async with AsyncExitStack() as stack:

        async def open_() -> Store:
            if kind == "memory":
                return one
            if kind == "sqlite":
                store: Any = SQLiteStore(tmp_path / "notify.db")
            elif kind == "redis":
                store = RedisStore(server.url, prefix=name)
            else:
                store = PostgresStore(server.dsn, schema=name)
            return await stack.enter_async_context(aclosing(store))

        yield open_


async def logs_left(store: Store, ticket: str) -> tuple[Any, ...]:
    log = tickets_module._log_of(ticket)
    return tuple((await store.read(log, ids.ZERO, 10)).events)


async def test_a_ticket_gives_the_identity_once(open_store: Open) -> None:
    """Another instance redeems it for exactly the client that it was issued to; then it is worth nothing."""
    here, there = Tickets(await open_store(), 30.0), Tickets(await open_store(), 30.0)
    before = datetime.now(UTC)
    issued = await here.issue(ALICE, ORIGIN)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", issued.ticket)
    assert abs(issued.expires_at - before - timedelta(seconds=30)) < timedelta(seconds=10)
    assert await there.redeem(issued.ticket, lambda bound: bound == ORIGIN) == ALICE
    assert await there.redeem(issued.ticket, anyone) is None
    assert await here.redeem(issued.ticket, anyone) is None
    assert await logs_left(await open_store(), issued.ticket) == ()


async def test_a_hundred_at_once_and_one_wins(open_store: Open) -> None:
    """Of a hundred attempts on four instances exactly one succeeds, also once the log of the ticket is erased."""
    instances = [Tickets(await open_store(), 30.0) for _ in range(4)]
    issued = await instances[0].issue(ALICE, "")
    won: list[Client | None] = []

    async def attempt(instance: Tickets) -> None:
        won.append(await instance.redeem(issued.ticket, anyone))

    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(attempt, instances[number % 4])
    assert len(won) == 100
    assert [each for each in won if each is not None] == [ALICE]


async def test_an_expired_ticket_is_refused(open_store: Open) -> None:
    """What counts is the time of the store: no clock of an instance is asked."""
    store = await open_store()
    issued = await Tickets(store, 0.02).issue(ALICE, "")
    log = tickets_module._log_of(issued.ticket)
    (event,) = (await store.read(log, ids.ZERO, 1)).events
    await until(lambda: datetime.now(UTC) > ids.time_of(event.id) + timedelta(seconds=0.05))
    assert await Tickets(store, 3600.0).redeem(issued.ticket, anyone) is None
    assert await logs_left(store, issued.ticket) == ()


async def test_another_origin_is_refused_and_does_not_use_it_up(open_store: Open) -> None:
    """The page that it was stolen from can still use it, once."""
    tickets = Tickets(await open_store(), 30.0)
    issued = await tickets.issue(BOB, ORIGIN)
    asked: list[str] = []
    assert await tickets.redeem(issued.ticket, lambda bound: asked.append(bound) is not None) is None
    assert asked == [ORIGIN]
    assert await tickets.redeem(issued.ticket, anyone) == BOB


async def test_the_store_does_not_hold_the_ticket() -> None:
    """A reader of the store finds a hash, from which no ticket can be made."""
    store = MemoryStore()
    issued = await Tickets(store, 30.0).issue(ALICE, ORIGIN)
    (log,) = store._logs
    assert log.startswith("notify.ticket.")
    kept = "".join(event.to_json() for event in store._logs[log])
    assert issued.ticket not in kept + log
    assert await Tickets(store, 30.0).redeem(log.rpartition(".")[2][:43], anyone) is None


@pytest.mark.parametrize("text", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "!", "A" * 42 + "\n", "é" * 43, "A" * 10_000])
async def test_what_is_not_a_ticket_costs_nothing(text: str) -> None:
    """Text of another shape is refused without asking the store."""
    store = PlainStore()
    assert await Tickets(store, 30.0).redeem(text, anyone) is None
    assert store.calls == []
    assert await Tickets(store, 30.0).redeem("A" * 43, anyone) is None
    assert store.calls == ["read"]


@pytest.fixture(params=["asyncio", "trio"])
def both_loops(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestWithoutAStore:
    """One instance alone keeps its tickets in memory; also on trio."""

    @pytest.fixture
    def anyio_backend(self, both_loops: str) -> str:
        return both_loops

    async def test_one_use_one_origin(self) -> None:
        """As with a store."""
        tickets = Tickets(None, 30.0)
        issued = await tickets.issue(ALICE, ORIGIN)
        assert await tickets.redeem(issued.ticket, lambda bound: bound != ORIGIN) is None
        assert await tickets.redeem(issued.ticket, anyone) == ALICE
        assert await tickets.redeem(issued.ticket, anyone) is None
        assert issued.ticket not in repr(vars(tickets))

    async def test_expiry_and_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Expired ones are refused, and removed by the next one; more than the limit push out the oldest."""
        monkeypatch.setattr(tickets_module, "MAX_KEPT", 3)
        tickets = Tickets(None, 30.0)
        issued = [await tickets.issue(ALICE, "") for _ in range(5)]
        assert len(tickets._kept) == 3
        assert await tickets.redeem(issued[0].ticket, anyone) is None
        assert await tickets.redeem(issued[4].ticket, anyone) == ALICE
        later = tickets_module.monotonic() + 31
        monkeypatch.setattr(tickets_module, "monotonic", lambda: later)
        assert await tickets.redeem(issued[3].ticket, anyone) is None
        await tickets.issue(ALICE, "")
        assert len(tickets._kept) == 1


async def test_logs_of_tickets_that_were_not_used_are_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance that issued them erases them with its next tickets, once no request can be on its way."""
    store = MemoryStore()
    tickets = Tickets(store, 30.0)
    for _ in range(3):
        await tickets.issue(ALICE, "")
    assert len(store._logs) == 3
    later = tickets_module.monotonic() + 91
    monkeypatch.setattr(tickets_module, "monotonic", lambda: later)
    await tickets.issue(ALICE, "")
    assert len(store._logs) == 2
    await tickets.issue(ALICE, "")
    assert len(store._logs) == 2


class TestOpenTickets:
    """How many tickets of one user may be open."""

    def test_each_user_has_a_limit_of_its_own(self) -> None:
        """The next one has to wait until the oldest expires; one that is used makes room at once."""
        tickets = OpenTickets(30.0, 2, 100)
        assert tickets.add("bob-1", "bob", 999.0) == 0
        assert tickets.add("a-1", "alice", 1000.0) == 0
        assert tickets.add("a-2", "alice", 1010.0) == 0
        assert tickets.add("a-3", "alice", 1010.5) == 19.5
        assert tickets.add("bob-2", "bob", 1010.5) == 0
        tickets.discard("a-2")
        tickets.discard("a-2")
        assert tickets.add("a-3", "alice", 1010.5) == 0
        assert tickets.add("a-4", "alice", 1029.5) == 0.5
        assert tickets.add("a-4", "alice", 1030.0) == 0

    def test_nothing_is_left(self) -> None:
        """Users without a ticket are forgotten, and of too many the oldest ticket is."""
        tickets = OpenTickets(30.0, 5, 3)
        for number in range(6):
            tickets.add(f"t-{number}", f"user-{number}", 1000.0)
        assert len(tickets) == len(tickets._counts) == 3
        tickets.add("last", "alice", 1031.0)
        assert (len(tickets), tickets._counts) == (1, {"alice": 1})


async def test_a_used_ticket_makes_room(open_store: Open) -> None:
    """The limit is for those that are open, not for those that were issued."""
    tickets = Tickets(await open_store(), 30.0, 1)
    for _ in range(3):
        issued = await tickets.issue(ALICE, "")
        with pytest.raises(WebError, match="too many tickets"):
            await tickets.issue(ALICE, "")
        assert await tickets.redeem(issued.ticket, anyone) == ALICE
    assert len(tickets._open) == 0


async def test_without_a_store_too() -> None:
    """The instance that is alone counts as the others do."""
    tickets = Tickets(None, 30.0, 1)
    issued = await tickets.issue(ALICE, "")
    with pytest.raises(WebError, match="too many tickets"):
        await tickets.issue(ALICE, "")
    assert await tickets.redeem(issued.ticket, anyone) == ALICE
    await tickets.issue(ALICE, "")


async def test_a_ticket_of_an_older_instance() -> None:
    """It has no login in it, and is known by its session."""
    store = MemoryStore()
    tickets = Tickets(store, 30.0)
    facts = tickets_module._facts(ALICE, "", 30.0)
    del facts["login"]
    await store.save(Event(tickets_module._log_of("A" * 43), tickets_module.ISSUED, facts))
    assert await tickets.redeem("A" * 43, anyone) == ALICE._replace(login="session-1")


class TardyStore(PlainStore):
    """Lets one reader read, and holds its save back until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = anyio.Event()
        self.waits = True
        self.forgotten: list[str] = []

    async def save(self, event: Event) -> Event:
        if event.type == tickets_module.USED and self.waits:
            self.waits = False
            await self.go_on.wait()
        return await super().save(event)

    async def forget(self, user: str) -> int:
        self.forgotten.append(user)
        return await self.inner.forget(user)


async def test_a_late_attempt_finds_the_log_erased_and_does_not_win() -> None:
    """It has read the ticket before another attempt redeemed it, and saves after the log is gone with its keys."""
    store = TardyStore()
    tickets = Tickets(store, 30.0)
    issued = await tickets.issue(ALICE, "")
    late: list[Client | None] = []

    async def attempt() -> None:
        late.append(await tickets.redeem(issued.ticket, anyone))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt)
        await until(lambda: not store.waits)
        assert await tickets.redeem(issued.ticket, anyone) == ALICE
        store.go_on.set()
    assert late == [None]
    assert len(store.forgotten) == 2
    assert await logs_left(store, issued.ticket) == ()


async def test_a_store_that_cannot_forget_is_enough() -> None:
    """The five methods of a store suffice; what is left of a ticket is of no use."""
    tickets = Tickets(PlainStore(), 30.0)
    issued = await tickets.issue(ALICE, "")
    assert await tickets.redeem(issued.ticket, anyone) == ALICE
    assert await tickets.redeem(issued.ticket, anyone) is None


class FailingStore(PlainStore):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        if self.error is not None:
            raise self.error

    async def forget(self, user: str) -> int:
        raise OSError("cannot erase")


@pytest.mark.parametrize("error", [OSError("boom"), BackendUnavailableError("away")])
async def test_a_store_that_fails_fails_the_request(error: Exception) -> None:
    """An error of any kind is raised as one of the library's; one while erasing is ignored."""
    store = FailingStore(error)
    tickets = Tickets(store, 30.0)
    with pytest.raises(BackendUnavailableError):
        await tickets.issue(ALICE, "")
    with pytest.raises(BackendUnavailableError):
        await tickets.redeem("A" * 43, anyone)
    assert len(tickets._open) == 0
    store.error = None
    issued = await tickets.issue(ALICE, "")
    assert await tickets.redeem(issued.ticket, anyone) == ALICE


async def test_a_log_that_holds_something_else_is_not_a_ticket() -> None:
    """Whatever an application has pushed under such a name lets no client in."""
    store = MemoryStore()
    await store.save(Event(tickets_module._log_of("A" * 43), "note", {"user": "root", "origin": ""}))
    assert await Tickets(store, 30.0).redeem("A" * 43, anyone) is None
    assert isinstance(await store.read("x", ids.ZERO, 1), Page)
