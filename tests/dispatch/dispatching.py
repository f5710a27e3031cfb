"""Other processes on one store of deliveries: `python -m tests.dispatch.dispatching STORE ROLE ARGUMENTS`."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from notify.dispatch.abc import CapWindow, Claim, DigestJoin, Move, Notification, RecipientRecord, State, Submission
from tests.forks import Fork
from tests.parts import untraced_environment

ROOT = Path(__file__).parent.parent.parent

OPEN = (State.WAITING, State.CLAIMED, State.SENDING)


def open_store(place: str) -> Any:
    """Return the store that a JSON text names, such as `["sqlite", PATH]`; `["memory"]` is one that nobody shares."""
    kind, *rest = json.loads(place)
    if kind == "sqlite":
        from notify_sqlite import SQLiteDispatchStore

        return SQLiteDispatchStore(rest[0], timeout=30)
    if kind == "memory":
        from notify_memory import MemoryDispatchStore

        return MemoryDispatchStore()
    if kind == "redis":
        from notify_redis import RedisCaps

        return RedisCaps(rest[0], prefix=rest[1])
    from notify_pg import PostgresDispatchStore

    return PostgresDispatchStore(rest[0], schema=rest[1], timeout=30, pool_size=2)


@contextmanager
def processes() -> Iterator[Any]:
    """Yield a function that starts a process; at the end, kill those that still run."""
    with ExitStack() as stack:

        def start(*arguments: object) -> Fork:
            fork = Fork("tests.dispatch.dispatching", *arguments, env=untraced_environment(), text=True)
            stack.enter_context(fork)
            stack.callback(fork.kill)
            return fork

        yield start


async def line(process: Fork) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    text = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    assert text, process.stderr and process.stderr.read()
    return text.strip()


async def rest(process: Fork) -> list[str]:
    """Let the process go on if it waits; return what it prints until it ends."""
    output, errors = await asyncio.to_thread(process.communicate, "go\n", 120)
    assert process.returncode == 0, errors
    return output.splitlines()


def say(*words: object) -> None:
    """Print one line at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


async def send(claim: Claim, file: int) -> None:
    """Send a message, for good: to a file."""
    os.write(file, f"{claim.delivery.id}\n".encode())


async def work(store: Any, sent: str, lease: str, limit: str, stop: str = "") -> None:
    """Deliver until nothing is open; say what is claimed. With `stop`, halt at that step of the first delivery."""

    async def reach(step: str, claim: Claim) -> None:
        if step == stop:
            say("reached", claim.delivery.id)
            await asyncio.Event().wait()

    file = os.open(sent, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    while True:
        claims = await store.claim(now(), lease=float(lease), limit=int(limit))
        for claim in claims:
            say("claimed", claim.delivery.id, claim.delivery.fence)
        for claim in claims:
            row = claim.delivery
            await reach("claimed", claim)
            if claim.is_ambiguous:
                await store.advance([Move(row.id, row.fence, State.UNKNOWN)], now())
                continue
            if await store.advance([Move(row.id, row.fence, State.SENDING)], now()) != [True]:
                continue
            await reach("begun", claim)
            await send(claim, file)
            await reach("sent", claim)
            await store.advance([Move(row.id, row.fence, State.ACCEPTED)], now())
            await reach("finished", claim)
        if not claims:
            if not await store.stuck(OPEN, limit=1):
                return
            await asyncio.sleep(0.05)


async def count(store: Any, first: str, last: str, limit: str) -> None:
    """Ask a cap of alice for numbered notifications, all at the same time; say those that are admitted."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    windows = [CapWindow("alice/cap", int(limit), now() + timedelta(days=1))]

    async def ask(number: int) -> None:
        if await store.admit(f"n{number}", "alice", windows, now()) == -1:
            say("admitted", number)

    await asyncio.gather(*(ask(number) for number in range(int(first), int(last))))


async def collect(store: Any, number: str, of: str) -> None:
    """Do one part of a lot of work on three digests: join them, some notifications twice, and close what is due."""
    random = Random(3)
    work = [(f"n{each}", f"k{random.randrange(3)}", each // 40) for each in range(600)]
    work += random.sample(work, 200)
    work += [("", "", second) for second in range(30)] * 3
    work.sort(key=lambda each: (each[2], random.random()))
    start = datetime(2027, 1, 5, tzinfo=UTC)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)

    async def act(part: int) -> None:
        for name, key, second in work[part :: 2 * int(of)]:
            at = start + timedelta(seconds=second)
            if not name:
                await store.close_digests(at)
                continue
            closes = at + timedelta(seconds=5)
            join = DigestJoin(key, name, "alice", "t", ["log"], closes, closes, limit=20)
            records = [RecipientRecord(name, "alice")]
            await store.submit(Submission(Notification(name, "t", b"{}", at), records, (), [join]))

    await asyncio.gather(act(2 * int(number)), act(2 * int(number) + 1))


async def schedule(store: Any, sent: str, first: str, users: str, pause: str, lease: str) -> None:
    """Be one of the processes that run a schedule from a time on, and end once a run is over and everything is sent.

    Before it submits to the user that `pause` names, say so and wait to be killed.
    """
    from notify.dispatch import Accepted, Dispatcher, Job, NotificationType, Outcome, Recipient, Schedule

    file = os.open(sent, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    class Lines:
        has_endpoints = False
        deduplicates = False

        async def send(self, job: Job) -> Outcome:
            os.write(file, f"{job.data['run']}/{job.user}\n".encode())
            return Accepted()

    async def recipients(ids: Any) -> list[Recipient]:
        if pause in ids:
            say("reached")
            await asyncio.Event().wait()
        return [Recipient(each) for each in ids]

    async def everyone(after: str) -> Any:
        for number in range(int(users)):
            if (user := f"u{number:05}") > after:
                yield user

    start = datetime.fromisoformat(first)
    began = now()

    def clock() -> datetime:
        return start + (now() - began)

    async def data(day: Any) -> dict[str, Any]:
        return {"run": day.isoformat()}  # the same in every process

    types = [NotificationType("news", channels=["lines"])]
    dispatcher = Dispatcher(
        None, store, types, {"lines": Lines()}, recipients=recipients, clock=clock, timeout=0.5, lease=float(lease)
    )
    dispatcher.schedule(Schedule("morning", "news", everyone, data, tz="UTC", grace=86_000.0))
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    while True:
        done = await dispatcher.tick()
        (status,) = await dispatcher.schedules()
        if status.last_run and not await store.stuck((State.CLAIMED, State.SENDING), limit=1):
            if len(await store.stuck((State.WAITING,), limit=2)) == 1 and not done.scheduled:  # the schedule itself
                return
        if not done.claimed and not done.scheduled:
            await asyncio.sleep(0.05)


async def read(store: Any, log: str, item: str, stop: str) -> None:
    """Mark an item of alice as read beside an idle dispatcher; with `stop`, halt in that call of its store."""
    from notify import Notifier
    from notify.dispatch import Dispatcher, Fallback, NotificationType, Recipient
    from notify.dispatch.channels import InAppChannel, LogChannel
    from notify.inbox import Inbox
    from notify_sqlite import SQLiteStreamStore

    async def halt(*args: Any, **options: Any) -> None:
        say("reached")
        await asyncio.Event().wait()

    if stop:
        setattr(store, stop, halt)
    type = NotificationType("note", channels=["in_app", "email"], fallback={"email": Fallback("unread", 900.0)})
    async with SQLiteStreamStore(log) as events, Notifier(events) as notifier:
        inbox = Inbox(notifier)
        channels = {"in_app": InAppChannel(inbox), "email": LogChannel()}
        dispatcher = Dispatcher(inbox, store, [type], channels, recipients=lambda ids: map(Recipient, ids))
        await inbox.mark_read("alice", item)
        say("read", len(dispatcher.types))


async def hold(store: Any, file: str) -> None:
    """Hold the write lock of a database file until a line arrives on standard input."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        say("held")
        sys.stdin.readline()
    say("free")


async def submit(store: Any, name: str, users: int) -> list[str]:
    """Submit a notification to so many users and return the ids of its deliveries."""
    from notify.dispatch.abc import Delivery, delivery_id

    created = now()
    rows = [
        Delivery(delivery_id(name, f"user{number}", "log"), name, f"user{number}", "log", due_at=created)
        for number in range(users)
    ]
    records = [RecipientRecord(name, row.user) for row in rows]
    await store.submit(Submission(Notification(name, "t", b"{}", created), records, rows))
    return [row.id for row in rows]


async def main(place: str, role: str, *arguments: str) -> None:
    """Play a role."""
    async with open_store(place) as store:
        roles = {"work": work, "count": count, "collect": collect, "schedule": schedule, "read": read, "hold": hold}
        await roles[role](store, *arguments)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
