"""A fallback for an unread item is cancelled when the item is read, not when it is due."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import anyio
import httpx
import pytest

from notify import BackendUnavailableError, ids
from notify.dispatch import (
    Ambiguous,
    Digest,
    Dispatcher,
    Fallback,
    NotificationType,
    Reason,
    State,
    Transient,
)
from notify.dispatch._reading import CancelWhenRead
from notify.dispatch.abc import Delivery, DigestJoin, Move, Notification, RecipientRecord, Submission
from notify.inbox import Inbox, Item
from notify.testing.dispatch import VirtualClock
from notify.web import Identity, NotifyApp
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from notify_sqlite import SQLiteDispatchStore, SQLiteStreamStore
from tests.dispatch.dispatching import line, processes, rest
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.world import START, Recorder, World
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

WAIT = 900.0
CANCELLED = (State.CANCELLED, "read_already")
ACCEPTED = (State.ACCEPTED, "")
WAITING = (State.WAITING, "fallback")

NOTE = NotificationType("note", channels=["in_app", "email"], fallback={"email": Fallback("unread", WAIT)})
OTHER = NotificationType(
    "other",
    channels=["in_app", "web_push", "email"],
    fallback={"email": Fallback("failed", WAIT, of="web_push")},
)
SHORT = NotificationType("short", channels=["in_app", "web_push"], fallback={"web_push": Fallback("away", 60.0)})
BOTH = NotificationType(
    "both",
    channels=["in_app", "web_push", "email"],
    fallback={"web_push": Fallback("away", 60.0), "email": Fallback("unread", WAIT)},
)
PLAIN = NotificationType("plain", channels=["in_app", "email"])
TYPES = [NOTE, OTHER, SHORT, BOTH, PLAIN]


class Watch:
    """Counts the calls of a store by name, and makes those that a test names fail or hang."""

    def __init__(self, store: Any) -> None:
        self.calls: Counter[str] = Counter()
        self.fails = self.hangs = ""
        for name in ("record", "cancel", "advance", "claim", "hurry", "delivery", "submit", "digest_items"):
            setattr(store, name, self._watched(name, getattr(store, name)))

    def _watched(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            if self.fails == name:
                raise BackendUnavailableError("the store is away", backend="test")
            if self.hangs == name:
                await anyio.sleep_forever()
            return await method(*args, **options)

        return call


class Watched(World):
    """A world whose store of deliveries is watched, and whose log counts reads of inboxes."""

    def __init__(self, types: Sequence[NotificationType], clock: VirtualClock, store: Any) -> None:
        self.watch, self.log = Watch(store), Log()
        super().__init__(types, clock, store, self.log)


class Log(MemoryStreamStore):
    """A log that counts reads of inboxes, and whose clock a test may set back."""

    def __init__(self) -> None:
        self.ago, self.reads = 0.0, 0
        super().__init__(clock=lambda: time.time() - self.ago)

    async def items(self, *args: Any, **options: Any) -> Any:
        self.reads += 1
        return await super().items(*args, **options)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the bounds are not met where a test is about something else."""
    monkeypatch.setattr("notify.dispatch._reading._TIMEOUT", 60.0)
    monkeypatch.setattr("notify.dispatch._reading._ENOUGH", 60.0)


@pytest.fixture(params=NAMES)
async def world(request: pytest.FixtureRequest, postgres: Server, tmp_path: Path) -> AsyncIterator[Watched]:
    """One on each store."""
    clock = VirtualClock(START)
    async with opened(request.param, clock, tmp_path, postgres.dsn, fresh_schema()) as store:
        yield Watched(TYPES, clock, store)


def local(*types: NotificationType) -> Watched:
    """One on the memory store, for what does not depend on the store."""
    clock = VirtualClock(START)
    return Watched(types or TYPES, clock, MemoryDispatchStore(clock=clock))


async def rows(world: World, ticket: str, user: str = "alice") -> dict[str, tuple[State, str]]:
    """Return the states and reasons of a notification's deliveries by channel."""
    record = await world.store.record(ticket, user)
    assert record is not None
    return {each.channel: (each.state, each.reason) for each in record[2]}


async def items(world: World, user: str = "alice") -> dict[str, Item]:
    """Return the items of a user by their titles."""
    return {each.event.payload["title"]: each for each in (await world.inbox.list(user, limit=200)).items}


async def sent(world: World, *titles: str, key: str = "note", user: str = "alice", **data: Any) -> list[str]:
    """Submit notifications, list them in the inbox, and return the tickets."""
    tickets = [await world.submit(key, user, title=title, **data) for title in titles]
    await world.settle()
    return tickets


# -- how it is read --------------------------------------------------------------------------------------------------


async def over_http(world: World, item: Item) -> None:
    """Mark an item as read as a page does."""
    app = NotifyApp(world.notifier, lambda request: Identity("alice"), inbox=world.inbox)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/inbox/mark", json={"state": "read", "ids": [item.id]})
        assert answer.status_code == 200


READING: dict[str, Callable[[Watched, Item], Awaitable[object]]] = {
    "one id": lambda world, item: world.inbox.mark_read("alice", item.id),
    "up to": lambda world, item: world.inbox.mark_read_up_to("alice", item.id),
    "mark": lambda world, item: world.inbox.mark("alice", "read", up_to=item.id),
    "dismiss": lambda world, item: world.inbox.dismiss("alice", [item.id]),
    "dismiss up to": lambda world, item: world.inbox.dismiss_up_to("alice", item.id),
    "dismiss a group": lambda world, item: world.inbox.dismiss_group("alice", "post:1"),
    "over HTTP": over_http,
}


@pytest.mark.parametrize("how", READING)
async def test_it_ends_when_the_item_is_read(world: Watched, how: str) -> None:
    """At once, in the call that reads; `explain` shows it, nothing is sent, and what was not read is untouched."""
    first, later = [*await sent(world, "one", tag="post:1"), *await sent(world, "two")]
    (bobs,) = await sent(world, "one", user="bob", tag="post:1")
    world.clock.advance("5m")
    await READING[how](world, (await items(world))["one"])
    assert await rows(world, first) == {"in_app": ACCEPTED, "email": CANCELLED}
    found = await world.dispatcher.explain(first, "alice")
    assert found is not None
    assert "cancelled (read_already)" in str(found)
    assert [each.state for each in found.report()] == [State.ACCEPTED, State.CANCELLED]
    assert (await rows(world, later))["email"] == (await rows(world, bobs, "bob"))["email"] == WAITING
    await world.pass_time("15m")
    assert sorted((job.user, job.data["title"]) for job in world.email.jobs) == [("alice", "two"), ("bob", "one")]
    assert (await rows(world, first))["email"] == CANCELLED
    assert world.inbox.hook_failures == 0


async def test_several_items_at_once(world: Watched) -> None:
    """Each notification by itself, and each of its channels that waits to see whether it is read."""
    notes, (both,) = await sent(world, "a", "b", "c"), await sent(world, "d", key="both")
    await world.device("phone")
    named = await items(world)
    await world.inbox.mark_read("alice", [named[each].id for each in "acd"])
    assert [(await rows(world, each))["email"] for each in notes] == [CANCELLED, WAITING, CANCELLED]
    assert (await rows(world, both)).get("email") == CANCELLED
    await world.pass_time("20m")
    assert [job.data["title"] for job in world.email.jobs] == ["b"]
    assert not world.push.jobs


async def test_one_notification_to_several(world: Watched) -> None:
    """Only what waits for the recipient who has read it is cancelled."""
    ticket = (await world.dispatcher.submit_many("note", ["alice", "bob"], {"title": "one"})).id
    await world.settle()
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert (await rows(world, ticket))["email"] == CANCELLED
    assert (await rows(world, ticket, "bob"))["email"] == WAITING
    await world.pass_time("16m")
    assert [job.user for job in world.email.jobs] == ["bob"]


async def test_what_waits_for_something_else(world: Watched) -> None:
    """A fallback for failures, and what quiet hours hold, are left alone, also beside a fallback for unread items."""
    sms = Recorder()
    kind = NotificationType(
        "kind",
        channels=["in_app", "web_push", "sms", "email"],
        fallback={"web_push": Fallback("unread", WAIT), "email": Fallback("failed", WAIT, of="sms")},
    )
    channels = {"in_app": world.in_app, "email": world.email, "web_push": world.push, "sms": sms}
    night = {"quiet_hours": [{"start": "11:00", "end": "23:00", "channels": ["sms"]}]}
    dispatcher = Dispatcher(
        world.inbox, world.store, [kind], channels, recipients=world.recipients, clock=world.clock.now
    )
    await dispatcher.set_preferences("bob", night)
    for user in ("alice", "bob"):
        await world.device(f"of {user}", user)
        ticket = (await dispatcher.submit("kind", user, {"title": "one"})).id
        while (await dispatcher.tick()).claimed:
            pass
        await world.inbox.mark_read(user, (await items(world, user))["one"].id)
        found = await rows(world, ticket, user)
        assert found["web_push"] == CANCELLED
        assert found["email"] == WAITING
        assert found["sms"] == (ACCEPTED if user == "alice" else (State.WAITING, "quiet_hours"))


async def test_devices_that_wait(world: Watched) -> None:
    """A push message that waits to be tried again on two devices is cancelled for both."""
    await world.device("a")
    await world.device("b")
    world.push.answers = [Transient("503"), Transient("503")]
    (ticket,) = await sent(world, "one", key="both")
    await world.pass_time("61s")
    assert (await world.states(ticket))["web_push"] == [State.WAITING, State.WAITING]
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert (await world.states(ticket))["web_push"] == [State.CANCELLED, State.CANCELLED]
    await world.pass_time("1h")
    assert len(world.push.jobs) == 2


async def test_what_does_not_read_changes_nothing(world: Watched) -> None:
    """Seen, restored, marked as unread: the fallback waits. So does one that steps in for a failure."""
    await world.device("phone")
    (ticket,), (other,) = await sent(world, "one"), await sent(world, "two", key="other")
    named = await items(world)
    elsewhere = Inbox(world.notifier)
    await elsewhere.mark_read("alice", named["one"].id)
    calls = Counter(world.watch.calls)
    page = await world.inbox.list("alice")
    await world.inbox.mark_seen("alice", up_to=page.position)
    await world.inbox.mark_unread("alice", named["one"].id)
    await elsewhere.dismiss("alice", named["one"].id)
    await world.inbox.restore("alice", named["one"].id)
    assert world.watch.calls == calls
    assert (await rows(world, ticket))["email"] == WAITING
    await world.inbox.mark_read("alice", named["two"].id)
    assert (await rows(world, other))["email"] == WAITING
    assert world.watch.calls - calls == Counter(record=2)  # those of `rows`


async def test_marked_as_unread_again(world: Watched) -> None:
    """What was cancelled stays cancelled; where no dispatcher saw that it was read, the fallback still applies."""
    seen, unseen = await sent(world, "seen", "unseen")
    named, elsewhere = await items(world), Inbox(world.notifier)
    for inbox, name in ((world.inbox, "seen"), (elsewhere, "unseen")):
        await inbox.mark_read("alice", named[name].id)
        await inbox.mark_unread("alice", named[name].id)
    await world.pass_time("16m")
    assert [(await rows(world, each))["email"][0] for each in (seen, unseen)] == [State.CANCELLED, State.ACCEPTED]
    assert [job.data["title"] for job in world.email.jobs] == ["unseen"]


async def test_marked_as_unread_in_the_meantime() -> None:
    """What counts is the state of the item when the hook looks at it, not what the change had made of it."""
    world = local()
    (ticket,) = await sent(world, "one")
    elsewhere, item = Inbox(world.notifier), (await items(world))["one"]
    change = await elsewhere.mark_read("alice", item.id)
    await elsewhere.mark_unread("alice", item.id)
    hook = CancelWhenRead(world.dispatcher._parts)
    for cancelled in (False, True):
        if cancelled:
            await elsewhere.mark_read("alice", item.id)
        done = hook.after_change("alice", change)
        assert done is not None
        await done
        assert (await rows(world, ticket))["email"] == (CANCELLED if cancelled else WAITING)


async def test_read_before_the_inbox_has_answered(world: Watched) -> None:
    """The item is there, but the store does not know it yet: the check when the fallback is due decides."""
    ticket = await world.submit(title="one")
    send, named = world.in_app.send, list[Item]()

    async def read_at_once(job: Any) -> Any:
        answer = await send(job)
        named.extend((await items(world)).values())
        await world.inbox.mark_read("alice", named[0].id)
        return answer

    world.in_app.send = read_at_once  # type: ignore[method-assign]
    await world.settle()
    assert (await rows(world, ticket))["email"] == WAITING
    await world.pass_time("16m")
    assert (await rows(world, ticket))["email"] == (State.SKIPPED, "read_already")
    assert not world.email.jobs


async def test_an_item_that_only_names_the_notification(world: Watched) -> None:
    """Reading another item with the same meta, or one of a type that is not registered, cancels nothing."""
    (ticket,) = await sent(world, "one")
    for type in ("note", "unknown", "plain"):
        copy = await world.inbox.send("alice", type, {"title": "copy"}, meta={"notification": ticket})
        bare = await world.inbox.send("alice", type, {"title": "copy"})
        unknown = await world.inbox.send("alice", type, {"title": "copy"}, meta={"notification": "no such"})
        await world.inbox.mark_read("alice", [each.id for each in (copy, bare, unknown) if each is not None])
    assert (await rows(world, ticket))["email"] == WAITING
    assert world.inbox.hook_failures == 0


async def test_the_item_of_a_session(world: Watched) -> None:
    """A merged item is another item: the session's own fallback is not touched, and nothing is queried."""
    (ticket,) = await sent(world, "one", user="bob")
    await world.inbox.merge("bob", into="alice")
    calls = Counter(world.watch.calls)
    await world.inbox.mark_read("alice", [(await items(world))["one"].id])
    assert world.watch.calls == calls
    assert (await rows(world, ticket, "bob"))["email"] == WAITING


# -- what it costs ---------------------------------------------------------------------------------------------------


async def test_old_items_cost_no_query(world: Watched) -> None:
    """Items so old that no fallback can still be waiting are not looked up, whatever is marked with them."""
    log = world.log
    world.clock.advance("1h")
    tickets = []
    for log.ago in (3600.0, WAIT + 61, WAIT + 59, 0.0):
        tickets += await sent(world, f"{log.ago:.0f}")
    named = await items(world)
    calls, reads = Counter(world.watch.calls), log.reads
    await world.inbox.mark_read("alice", [named["3600"].id, named["961"].id])
    assert (world.watch.calls, log.reads) == (calls, reads)
    await world.inbox.mark_read_up_to("alice", named["0"].id)
    assert log.reads == reads + 1
    assert world.watch.calls - calls == Counter(record=2, cancel=2)
    states = [(await rows(world, each))["email"] for each in tickets]
    assert states == [WAITING, WAITING, CANCELLED, CANCELLED]
    await world.pass_time("16m")
    assert not world.email.jobs
    assert (await rows(world, tickets[0]))["email"] == (State.SKIPPED, "read_already")


async def test_types_without_such_fallbacks_cost_no_query() -> None:
    """If no type has one, nothing is looked up; types that are added later count."""
    world = local(PLAIN)
    await sent(world, "one", key="plain")
    named = await items(world)
    calls, reads = Counter(world.watch.calls), world.log.reads
    await world.inbox.mark_read("alice", named["one"].id)
    assert (world.watch.calls, world.log.reads) == (calls, reads)
    world.dispatcher.types.add(NOTE)
    (ticket,) = await sent(world, "two")
    await world.inbox.mark_read("alice", (await items(world))["two"].id)
    assert (await rows(world, ticket))["email"] == CANCELLED


async def test_each_type_has_its_own_time(world: Watched) -> None:
    """The longest wait of all types decides what is fetched; that of its own type, whether anything can wait."""
    world.log.ago = 300.0
    await sent(world, "old", key="short")
    await sent(world, "new")
    calls = Counter(world.watch.calls)
    page = await world.inbox.list("alice")
    await world.inbox.mark_read_up_to("alice", page.position)
    assert world.watch.calls - calls == Counter(record=1, cancel=1)


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["record", "cancel"])
async def test_a_store_that_fails(call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The item is read; the failure is logged once and counted; nothing is tried for a while; then workers skip."""
    world = local()
    tickets = await sent(world, "a", "b", "c")
    named = await items(world)
    world.watch.fails = call
    change = await world.inbox.mark_read("alice", [named["a"].id, named["b"].id])
    assert (len(change.ids), change.counts.unread) == (2, 1)
    assert world.inbox.hook_failures == 1
    assert [each.getMessage() for each in caplog.records] == [
        "the inbox hook CancelWhenRead.after_change failed, and the inbox goes on without it: "
        "BackendUnavailableError('the store is away')"
    ]
    world.watch.fails = ""
    calls = Counter(world.watch.calls)
    await world.inbox.mark_read("alice", [named["c"].id])
    assert world.watch.calls == calls
    monkeypatch.setattr("notify.dispatch._reading._PAUSE", 0.0)
    await world.pass_time("16m")
    assert [(await rows(world, each))["email"] for each in tickets] == [(State.SKIPPED, "read_already")] * 3
    assert not world.email.jobs


async def test_a_failure_pauses_it_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause, fallbacks are cancelled again."""
    monkeypatch.setattr("notify.dispatch._reading._PAUSE", 0.0)
    world = local()
    first, second = await sent(world, "a", "b")
    named = await items(world)
    world.watch.fails = "cancel"
    await world.inbox.mark_read("alice", named["a"].id)
    world.watch.fails = ""
    await world.inbox.mark_read("alice", named["b"].id)
    assert [(await rows(world, each))["email"] for each in (first, second)] == [WAITING, CANCELLED]


@pytest.mark.parametrize("call", ["record", "cancel"])
async def test_a_store_that_hangs(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading waits for a bounded time, once; then the item is read, and nothing is tried for a while."""
    monkeypatch.setattr("notify.dispatch._reading._TIMEOUT", 0.05)
    world = local()
    first, second = await sent(world, "a", "b")
    named = await items(world)
    world.watch.hangs = call
    assert (await world.inbox.mark_read("alice", named["a"].id)).counts.unread == 1
    assert (await world.inbox.mark_read("alice", named["b"].id)).counts.unread == 0
    assert world.watch.calls[call] == 1
    world.watch.hangs = ""
    assert world.inbox.hook_failures == 1
    await world.pass_time("16m")
    assert [(await rows(world, each))["email"][0] for each in (first, second)] == [State.SKIPPED] * 2


async def test_a_file_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is held longer than the bound does not hold up the reading."""
    monkeypatch.setattr("notify.dispatch._reading._TIMEOUT", 0.2)
    clock = VirtualClock(START)
    file = tmp_path / "d.db"
    async with SQLiteDispatchStore(file, clock=clock, timeout=60.0) as store:
        world = World(TYPES, clock, store)
        (ticket,) = await sent(world, "one")
        named = await items(world)
        with processes() as start:
            other = start(f'["sqlite", "{file}"]', "hold", file)
            assert await line(other) == "held"
            with anyio.fail_after(30):
                assert (await world.inbox.mark_read("alice", named["one"].id)).counts.unread == 0
            assert world.inbox.hook_failures == 1
            assert other.poll() is None
            assert await rest(other) == ["free"]
        await world.pass_time("16m")
        assert (await rows(world, ticket))["email"][1] == "read_already"
        assert not world.email.jobs


async def test_what_takes_long_is_left_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second, no further item is started; the newest, which wait longest, come first. It is not a failure."""
    monkeypatch.setattr("notify.dispatch._reading._ENOUGH", 1.0)
    world = local()
    tickets = await sent(world, "a", "b", "c")
    cancel, now = world.store.cancel, [1000.0]
    clocks = SimpleNamespace(time=time.time, monotonic=lambda: now[0])
    monkeypatch.setattr("notify.dispatch._reading.time", clocks)

    async def slow(*args: Any, **options: Any) -> int:
        now[0] += 0.6
        return int(await cancel(*args, **options))

    world.store.cancel = slow
    page = await world.inbox.list("alice")
    await world.inbox.mark_read_up_to("alice", page.position)
    newest_first = [tickets["abc".index(each.event.payload["title"])] for each in page.items]
    assert [(await rows(world, each))["email"] for each in newest_first] == [CANCELLED, CANCELLED, WAITING]
    assert world.inbox.hook_failures == 0
    await world.pass_time("16m")
    assert not world.email.jobs


async def test_a_store_that_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """An application that ends may close the store of deliveries first: that does not count as a failure."""
    world = local()
    await sent(world, "one")
    named = await items(world)
    await world.store.aclose()
    assert (await world.inbox.mark_read("alice", named["one"].id)).counts.unread == 0
    assert (world.inbox.hook_failures, caplog.records) == (0, [])


@pytest.mark.parametrize("step", ["record", "cancel"])
async def test_the_reader_is_cancelled(step: str) -> None:
    """The item is read, the call ends at once, and the fallback is skipped when it is due."""
    world = local()
    (ticket,) = await sent(world, "one")
    named = await items(world)
    world.watch.hangs = step
    async with anyio.create_task_group() as group:
        group.start_soon(world.inbox.mark_read, "alice", named["one"].id)
        while not world.watch.calls[step]:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    world.watch.hangs = ""
    assert (await world.inbox.counts("alice")).unread == 0
    await world.pass_time("16m")
    assert (await rows(world, ticket))["email"] == (State.SKIPPED, "read_already")


@pytest.mark.parametrize("step", ["record", "cancel"])
async def test_the_process_is_killed_in_between(tmp_path: Path, step: str) -> None:
    """`kill -9` between the reading and the cancelling: another process skips it when it is due, and explains it."""
    file, clock = tmp_path / "all.db", VirtualClock(datetime.now(UTC))
    async with SQLiteDispatchStore(file, clock=clock) as store, SQLiteStreamStore(file) as log:
        world = World(TYPES, clock, store, log)
        async with world.notifier:
            (ticket,) = await sent(world, "one")
            item = (await items(world))["one"]
            with processes() as start:
                reader = start(f'["sqlite", "{file}"]', "read", file, item.id, step)
                assert await line(reader) == "reached"
                reader.kill()
                await asyncio.to_thread(reader.wait)
            assert (await rows(world, ticket))["email"] == WAITING
            found = await world.dispatcher.explain(ticket, "alice")
            assert [(each.channel, each.reason) for each in found.changed] == [("email", Reason.READ_ALREADY)]  # type: ignore[union-attr]
            await world.pass_time("16m")
            assert (await rows(world, ticket))["email"] == (State.SKIPPED, "read_already")
            assert not world.email.jobs


async def test_another_process_reads(tmp_path: Path) -> None:
    """A process that only serves pages, and never runs a worker, cancels what waits in the shared file."""
    file, clock = tmp_path / "all.db", VirtualClock(datetime.now(UTC))
    async with SQLiteDispatchStore(file, clock=clock) as store, SQLiteStreamStore(file) as log:
        world = World(TYPES, clock, store, log)
        async with world.notifier:
            (ticket,) = await sent(world, "one")
            item = (await items(world))["one"]
            with processes() as start:
                reader = start(f'["sqlite", "{file}"]', "read", file, item.id, "")
                assert await rest(reader) == ["read 1"]
            assert (await rows(world, ticket))["email"] == CANCELLED


# -- digests, doubt, chains --------------------------------------------------------------------------------------------


NIGHT = {"quiet_hours": [{"start": "20:00", "end": "08:00", "action": "digest"}]}


async def test_a_digest_keeps_what_it_has_collected(world: Watched) -> None:
    """A fallback that came due at night was collected: reading the item leaves it in the digest."""
    await world.dispatcher.set_preferences("alice", NIGHT)
    world.clock.set(datetime(2027, 1, 5, 18, 50, tzinfo=UTC))  # 19:50 in Berlin
    first, second = await sent(world, "one", "two")
    await world.pass_time("16m")
    assert (await rows(world, first))["email"] == (State.JOINED, "quiet_hours")
    calls = world.watch.calls["cancel"]
    page = await world.inbox.list("alice")
    await world.inbox.mark_read_up_to("alice", page.position)
    assert world.watch.calls["cancel"] == calls
    assert (await rows(world, second))["email"] == (State.JOINED, "quiet_hours")
    await world.pass_time("13h")
    (job,) = world.email.jobs
    assert job.content.title in ("one (+ 1)", "two (+ 1)")


async def test_a_digest_keeps_what_it_has_of_one_device(world: Watched) -> None:
    """For one device it was collected, for the other it is tried again: only the latter is cancelled."""
    await world.device("a")
    await world.device("b")
    world.push.answers = [Transient("503"), Transient("503")]
    (ticket,) = await sent(world, "one", key="short")
    await world.pass_time("61s")
    now = world.clock.advance("1h")
    claim, other = await world.store.claim(now, lease=60.0)
    join = DigestJoin("key", ticket, "alice", "short", ["web_push"], now + timedelta(hours=1), now + timedelta(hours=1))
    moves = [
        Move(claim.delivery.id, claim.delivery.fence, State.JOINED, join=join),
        Move(other.delivery.id, other.delivery.fence, State.WAITING, due_at=now + timedelta(minutes=1)),
    ]
    assert await world.store.advance(moves, now) == [True, True]
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert {*(await world.states(ticket))["web_push"]} == {State.CANCELLED, State.JOINED}
    await world.pass_time("1h 10m")
    assert {*(await world.states(ticket))["web_push"]} == {State.CANCELLED, State.JOINED}
    assert {job.data["title"] for job in world.push.jobs if job.is_digest} == {"one"}


async def test_the_item_of_a_digest(world: Watched) -> None:
    """Reading the item that a digest put into the inbox stops none of its other messages: these are not fallbacks."""
    tickets = [await world.submit(title=title) for title in ("one", "two")]
    now = world.clock.now()
    for ticket in tickets:  # as if the type had been collected, and got its fallback later
        await world.store.cancel(ticket, now)
        join = DigestJoin("key", ticket, "alice", "note", ["in_app", "email"], now, now)
        records = [RecipientRecord(f"{ticket}+", "alice")]
        notification = Notification(f"{ticket}+", "note", b'{"title": "one"}', now)
        await world.store.submit(Submission(notification, records, (), [replace(join, notification=notification.id)]))
    world.email.answers = [Transient("451")]
    await world.settle()
    (waiting,) = await world.store.stuck([State.WAITING])
    assert (waiting.channel, waiting.reason) == ("email", "451")
    page = await world.inbox.list("alice")
    assert len(page.items) == 1
    await world.inbox.mark_read_up_to("alice", page.position)
    assert (await world.store.delivery(waiting.id)).delivery == waiting
    await world.pass_time("1h")
    assert (await world.store.delivery(waiting.id)).delivery.state is State.ACCEPTED


async def test_with_drop_read_a_digest_leaves_it_out() -> None:
    """The digest asks the inbox when it is sent; its channel is not a fallback, so nothing is cancelled."""
    world = local(NotificationType("note", channels=["in_app", "email"], digest=Digest(window=600.0, drop_read=True)))
    await sent(world, "one", "two")
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    await world.pass_time("11m")
    assert [job.content.title for job in world.email.jobs] == ["two"]


async def test_what_may_have_arrived_is_left(world: Watched) -> None:
    """A message that got no answer waits to be sent again; read in between, it ends as unknown when it is due."""
    await world.device("a")
    world.push.answers = [Ambiguous("cut")]
    (ticket,) = await sent(world, "one", key="both")
    await world.pass_time("61s")
    (row,) = [each for each in (await world.store.record(ticket, "alice"))[2] if each.endpoint]
    assert (row.state, row.reason) == (State.WAITING, "ambiguous")
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert (await rows(world, ticket))["email"] == CANCELLED
    assert (await world.store.delivery(row.id)).delivery == row
    await world.pass_time("1h")
    assert (await world.store.delivery(row.id)).delivery.state is State.UNKNOWN
    assert len(world.push.jobs) == 1


async def test_what_waits_for_it_in_turn(world: Watched) -> None:
    """A row that waits for the cancelled channel is due as it would be if a worker had skipped that one."""
    at, found = world.clock.now(), []
    for name in ("skipped", "cancelled"):
        rows = [
            Delivery(f"{name}-{channel}", name, "alice", channel, due_at=None if after else at, after=after)
            for channel, after in (("mail", ""), ("sms", "mail"), ("fax", "sms"))
        ]
        await world.store.submit(
            Submission(Notification(name, "t", b"{}", at), [RecipientRecord(name, "alice")], rows, ())
        )
    for claim in await world.store.claim(at, lease=60.0):
        move = Move(claim.delivery.id, claim.delivery.fence, State.SKIPPED, reason="read_already")
        if claim.delivery.notification == "skipped":
            assert await world.store.advance([move], at) == [True]
        else:
            reason = Reason.READ_ALREADY
            assert await world.store.cancel("cancelled", at, user="alice", channel="mail", reason=reason) == 1
    for name in ("skipped", "cancelled"):
        record = await world.store.record(name, "alice")
        assert record is not None
        found.append({each.channel: (each.state, each.due_at) for each in record[2] if each.channel != "mail"})
    assert found == [{"sms": (State.WAITING, at), "fax": (State.WAITING, None)}] * 2


# -- dispatchers and events ------------------------------------------------------------------------------------------


def another(world: Watched, **options: Any) -> Dispatcher:
    """Return one more dispatcher over the same inbox and store."""
    channels = {"in_app": world.in_app, "email": world.email, "web_push": world.push}
    known = {"recipients": world.recipients, "presence": world.presence, "clock": world.clock.now}
    return Dispatcher(world.inbox, world.store, TYPES, channels, **known, **options)


async def test_two_dispatchers_over_one_inbox() -> None:
    """With one store, what the first has cancelled is left alone by the second."""
    world = local()
    twin = another(world)
    (ticket,) = await sent(world, "one")
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert (await rows(world, ticket))["email"] == CANCELLED
    assert world.watch.calls["cancel"] == 1
    assert world.inbox.hook_failures == 0
    assert len(twin.types) == len(TYPES)


async def test_the_inbox_keeps_no_dispatcher_alive() -> None:
    """A dispatcher that the application has dropped no longer cancels anything, and leaves no hook in the inbox."""
    world = local()
    kept = another(world)
    await sent(world, "one")
    for _ in range(3):
        another(world)
    parts, named = ref(world.dispatcher._parts), await items(world)
    del world.dispatcher
    gc.collect()
    assert parts() is None
    await world.inbox.mark_read("alice", named["one"].id)
    assert world.watch.calls["cancel"] == 1
    (call,) = world.inbox._hooks.changed
    parts = ref(kept._parts)
    del kept
    gc.collect()
    assert parts() is None
    await world.inbox.dismiss("alice", named["one"].id)
    assert world.watch.calls["cancel"] == 1
    assert not world.inbox._hooks.changed
    assert isinstance(call.hook, CancelWhenRead)


async def test_a_dispatcher_keeps_no_inbox_alive() -> None:
    """The inbox is freed once the application has dropped both."""
    world = local()
    inbox = ref(world.inbox)
    del world
    gc.collect()
    assert inbox() is None


async def test_it_is_told_as_an_event() -> None:
    """With `events=`, the recipient's pages learn of it once."""
    world = local()
    dispatcher = another(world, events=world.notifier)
    del world.dispatcher
    gc.collect()
    await dispatcher.submit("note", "alice", {"title": "one"})
    while (await dispatcher.tick()).claimed:
        pass
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    await world.inbox.dismiss("alice", (await items(world))["one"].id)
    events = (await world.log.read("alice", "0", 100)).events
    told = [each.payload for each in events if each.type == "delivery"]
    assert [(each["channel"], each["state"], each["reason"]) for each in told] == [
        ("in_app", "accepted", ""),
        ("email", "cancelled", "read_already"),
    ]


async def test_a_worker_begins_in_between() -> None:
    """If sending has begun before the hook cancels, it is not stopped, and that does not count as a failure."""
    world = local()
    (ticket,) = await sent(world, "one")
    now, cancel, stopped = world.clock.advance("15m"), world.store.cancel, list[int]()

    async def late(*args: Any, **options: Any) -> int:
        (claim,) = await world.store.claim(now, lease=60.0)
        assert await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], now) == [True]
        stopped.append(await cancel(*args, **options))
        return stopped[-1]

    world.store.cancel = late
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert stopped == [0]
    assert (await rows(world, ticket))["email"][0] is State.SENDING
    assert world.inbox.hook_failures == 0


async def test_a_worker_collects_in_between(world: Watched) -> None:
    """If it is collected before the hook cancels, the digest keeps it."""
    (ticket,) = await sent(world, "one")
    now, cancel, stopped = world.clock.advance("15m"), world.store.cancel, list[int]()
    join = DigestJoin("key", ticket, "alice", "note", ["email"], now + timedelta(hours=1), now + timedelta(hours=1))

    async def late(*args: Any, **options: Any) -> int:
        (claim,) = await world.store.claim(now, lease=60.0)
        collected = Move(claim.delivery.id, claim.delivery.fence, State.JOINED, join=join)
        assert await world.store.advance([collected], now) == [True]
        stopped.append(await cancel(*args, **options))
        return stopped[-1]

    world.store.cancel = late
    await world.inbox.mark_read("alice", (await items(world))["one"].id)
    assert stopped == [0]
    await world.pass_time("2h")
    assert [job.data["title"] for job in world.email.jobs if job.is_digest] == ["one"]


async def test_many_items_at_once(world: Watched) -> None:
    """The newest are looked at, a few: whoever reads all at once does not wait for hundreds."""
    titles = [f"t{number}" for number in range(25)]
    tickets = dict(zip(titles, await sent(world, *titles), strict=True))
    named = await items(world)
    records = world.watch.calls["record"]
    await world.inbox.mark_read_up_to("alice", (await world.inbox.list("alice")).position)
    assert world.watch.calls["record"] == records + 20
    newest = sorted(titles, key=lambda title: ids.parse(named[title].id))[5:]
    found = {title: (await rows(world, tickets[title]))["email"] for title in titles}
    assert {title for title in titles if found[title] == CANCELLED} == {*newest}
    await world.pass_time("1h")
    assert world.email.jobs == []


async def test_reading_and_sending_at_the_same_moment(world: Watched) -> None:
    """Workers claim what is due while it is read: each e-mail is sent once or not at all, and nothing hangs."""
    titles = [f"t{number}" for number in range(40)]
    tickets = dict(zip(titles, await sent(world, *titles), strict=True))
    named = await items(world)
    world.clock.advance("15m")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for title in titles:
                group.start_soon(world.inbox.mark_read, "alice", named[title].id)
            for _ in range(4):
                group.start_soon(world.settle)
    await world.pass_time("1h")
    arrived = Counter(job.data["title"] for job in world.email.jobs)
    assert not [title for title, count in arrived.items() if count > 1]
    for title, ticket in tickets.items():
        state, reason = (await rows(world, ticket))["email"]
        if arrived[title]:
            assert state is State.ACCEPTED
        else:
            assert (state, reason) in (CANCELLED, (State.SKIPPED, "read_already"))
