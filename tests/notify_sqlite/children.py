"""Other processes on the same file: `python -m tests.notify_sqlite.children NAME ARGUMENTS`, one function each."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - loaded later, `as_user` might not be allowed to read it
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from notify import Event, Notifier, NotifyError, RoutingInfo
from notify.inbox.abc import ITEM, InboxRetention
from notify.testing import History
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore, _checkpoint
from notify_sqlite._schema import statements
from tests.forks import Fork
from tests.parts import untraced_environment


@contextmanager
def child(name: str, *arguments: object) -> Iterator[Fork]:
    """Run one of the functions below in a process of its own, and kill it in the end if it still runs."""
    with Fork("tests.notify_sqlite.children", name, *arguments, env=untraced_environment(), text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def line(process: Fork) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    text = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 20)
    assert text, process.stderr and process.stderr.read()
    return text.strip()


async def ended(process: Fork, seconds: float = 20) -> tuple[int, str]:
    """Return the exit status of the process, and what it wrote to stderr."""
    _, errors = await asyncio.to_thread(process.communicate, timeout=seconds)
    return process.returncode, errors


def say(text: object) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def push(path: str, user: str, count: str, history: str, name: str) -> None:
    """Push so many events through a notifier, eight at a time, recording into a file; say each that was accepted."""

    async def main() -> None:
        with History(history) as record:
            async with (
                SQLiteStreamStore(path, max_len=400_000, timeout=15) as store,
                Notifier(store, timeout=20) as notifier,
            ):

                async def one(number: int) -> None:
                    value = f"{name}-{number}"
                    with record.pushing(user, value) as attempt:
                        event = await notifier.push(user, "t", value)
                        assert event is not None
                        attempt.ok(event.id)
                    say(event.id)

                for start in range(0, int(count), 8):
                    async with asyncio.TaskGroup() as tasks:
                        for number in range(start, start + 8):
                            tasks.create_task(one(number))

    asyncio.run(main())


def push_when_told(path: str, count: str) -> None:
    """For each line that comes, push one event that holds the moment at which it was accepted at the earliest."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            say("ready")
            for _ in range(int(count)):
                await asyncio.to_thread(sys.stdin.readline)
                await store.save(Event("alice", "t", time.monotonic()))

    asyncio.run(main())


def save(path: str) -> None:
    """Save one event and say its id."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            say((await store.save(Event("alice", "t"))).id)

    asyncio.run(main())


def hold(path: str) -> None:
    """Hold the write lock from the first line said until a line is read."""
    with sqlite3.connect(path, isolation_level=None) as file:
        file.execute("BEGIN IMMEDIATE")
        say("held")
        sys.stdin.readline()
        file.execute("ROLLBACK")
    file.close()
    say("free")


def as_user(user: str, group: str, umask: str, name: str, *arguments: str) -> None:
    """Become somebody else, for good, and run one of these functions: everything that it needs is imported by now."""
    statements("store", "notify_")
    os.umask(int(umask, 8))
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
    globals()[name](*arguments)


def elect(path: str) -> None:
    """Save one event; say whether this process was elected, or why it cannot be; stay until a line is read."""
    _checkpoint.INTERVAL = 0.02  # type: ignore[misc]
    logs = logging.StreamHandler(sys.stdout)
    logging.getLogger("notify.sqlite").addHandler(logs)

    async def main() -> None:
        async with SQLiteStore(path) as store:
            await store.save(Event("alice", "t"))
            while not store._database.checkpointer.elected:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            say("elected")
            await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(main())


def relay(path: str) -> None:
    """Say the payload of each ephemeral event of alice."""

    async def main() -> None:
        async with SQLiteStreamStore(path) as store, Notifier(store) as notifier:
            async with notifier.subscribe("alice") as stream:
                while not store.is_receiving:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
                say("ready")
                async for event in stream:
                    say(event.payload)

    asyncio.run(main())


def attempt(path: str) -> None:
    """Say how reading ends, and how saving does."""

    async def main() -> None:
        store = SQLiteStore(path)
        for call in (store.head("alice"), store.save(Event("alice", "t"))):
            try:
                await call
            except NotifyError as error:
                say(f"{type(error).__name__}: {error}")
            else:
                say("works")
        await store.aclose()

    asyncio.run(main())


def starve(path: str) -> None:
    """Use up the files that this process may open; say how saving ends."""
    import resource

    async def main() -> None:
        async with SQLiteStore(f"{path}-other"):  # imports everything
            pass
        store = SQLiteStore(path)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = [open(os.devnull)]  # noqa: ASYNC230 - closed by the end of the process
        resource.setrlimit(resource.RLIMIT_NOFILE, (kept[0].fileno() + 1, hard))
        try:
            await store.save(Event("alice", "t"))
        except NotifyError as error:
            say(error)
        await store.aclose()
        kept[0].close()

    asyncio.run(main())


def stay(path: str) -> None:
    """Keep a store open, after one save, until killed."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            await store.save(Event("alice", "t"))
            while not store._database.checkpointer.elected:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            say("open")
            await asyncio.sleep(60)

    asyncio.run(main())


def forget(path: str) -> None:
    """End without closing anything: a store with a reader that waits and a save under way, and a tracker."""
    kept: list[object] = []

    async def main() -> None:
        store, presence = SQLiteStreamStore(path), SQLitePresence(path)
        stream = store.subscribe("alice", "0")
        await store.save(Event("alice", "t"))
        await stream.next()
        await presence.register("alice", RoutingInfo("a"))
        reader, late = asyncio.create_task(stream.next()), asyncio.create_task(store.save(Event("alice", "t")))
        waiting = asyncio.create_task(store._database.read(lambda db: over.wait() and order.append("job"), None))
        await asyncio.sleep(0.1)
        kept.extend([store, presence, reader, late, waiting])

    over, order = threading.Event(), list[str]()
    asyncio.run(main())
    over.set()
    while not order:
        time.sleep(0.001)
    time.sleep(0.1)  # for a thread that would complain of the closed event loop
    say("ending")


def attend(path: str, user: str, ttl: str) -> None:
    """Register a user, and stay until killed."""

    async def main() -> None:
        async with SQLitePresence(path, ttl=float(ttl)) as presence:
            await presence.register(user, RoutingInfo("child"))
            say("registered")
            await asyncio.sleep(60)

    asyncio.run(main())


def fork(path: str) -> None:
    """Open, fork, try everything in the fork, go on in the parent; say what happened."""
    with asyncio.Runner() as runner:
        store, presence = SQLiteStreamStore(path), SQLitePresence(path)
        runner.run(store.save(Event("alice", "t")))
        registration = runner.run(presence.register("alice"))
        if not (pid := os.fork()):
            os._exit(_in_fork(store, presence))
        _, status = os.waitpid(pid, 0)
        say(os.waitstatus_to_exitcode(status))
        runner.run(store.save(Event("alice", "t")))
        runner.run(registration.aclose())
        runner.run(presence.aclose())
        runner.run(store.aclose())
    say("went on")


def _in_fork(store: SQLiteStreamStore, presence: SQLitePresence) -> int:
    """Return how many calls raised UsageError."""
    from notify import UsageError

    async def attempts() -> int:
        calls = [
            store.save(Event("alice", "t")),
            store.read("alice", "0", 1),
            store.head("alice"),
            store.trim("0"),
            presence.register("bob"),
            presence.locate(["alice"]),
        ]
        refused = 0
        for call in calls:
            try:
                await call
            except UsageError as error:
                refused += "before a fork" in str(error)
        await presence.aclose()
        await store.aclose()
        return refused

    return asyncio.run(attempts())


def fill_up(path: str) -> None:
    """Push under a limit for the size of files until that fails, read, lift the limit and push again; say each."""
    import resource

    async def main() -> None:
        from notify import PushRejectedError

        async with SQLiteStore(path) as store:
            await store.save(Event("alice", "t", "first"))
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
            accepted = 1
            try:
                while True:
                    await store.save(Event("alice", "t", "x" * 10_000))
                    accepted += 1
            except PushRejectedError as error:
                say(type(error.__cause__).__name__)
            say(accepted == len((await store.read("alice", "0", 1000)).events))
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            say(
                (await store.save(Event("alice", "t", "last"))).prev
                == (await store.read("alice", "0", accepted)).position
            )

    asyncio.run(main())


def dismiss(path: str, user: str, item: str) -> None:
    """Dismiss one item."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            await store.change(Event(user, "notify.dismissed", {"ids": [item]}))

    asyncio.run(main())


def send(path: str, count: str) -> None:
    """Send items of one group, all at the same time."""

    async def main() -> None:
        async with SQLiteStore(path, timeout=30) as store, asyncio.TaskGroup() as tasks:
            for number in range(int(count)):
                tasks.create_task(store.save(Event("alice", "t", number, group="g", meta={ITEM: ""})))

    asyncio.run(main())


def work(path: str, seed: str) -> None:
    """Send and change items of four users at random, until killed; say that each step is done."""
    random = Random(int(seed))
    users = ("alice", "bob", "news", "session")
    effects = ("seen", "read", "unread", "dismissed", "restored")

    async def main() -> None:
        async with SQLiteStore(path, max_len=100_000, timeout=30) as store:
            store.inbox_retention = InboxRetention(max_items=100_000, max_age=None)
            while True:
                user, group = random.choice(users), random.choice((None, None, "g", "h"))
                sent = await store.save(Event(user, "t", group=group, meta={ITEM: ""}))
                await store.save_many([Event(user, "t", n, group=group, meta={ITEM: ""}) for n in range(3)])
                named = random.choice(({"ids": [sent.id]}, {"up_to": sent.id}, {"group": "g"}))
                await store.change(Event(user, f"notify.{random.choice(effects)}", named))
                if random.random() < 0.1:
                    await store.change(Event("alice", "notify.followed", {"topic": "news", "since": "0"}))
                    await store.change(Event("bob", "notify.merged", {"session": "session", "until": None}))
                say("done")

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
