"""A process of an application: `python -m tests.faults.worker ROLE ...`, which writes down all it does and sees.

Its history file takes each record at once, so a SIGKILL loses nothing that was done. On stdin it takes one word a line:
`pause` and `go`, `memory`, and `stop` (or the end of the input) to close everything in order. On stdout it says
`ready`, `paused`, `memory`, and at the end `left`, with whatever it has left running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import threading
from random import Random

import anyio
import anyio.lowlevel

from notify import BackendError, BackendUnavailableError, Event, Notifier, PushUncertainError, Stream, StreamStore, ids
from notify.testing import History
from notify.testing.history import Reader

from .stores import open_store

REPEATS = 5
"""How often a push with a key is repeated while its outcome is unknown."""


class Worker:
    """What pushers and readers share.

    Args:
        options: of the command line.
        store: used by this process alone.
        history: what happened.
    """

    def __init__(self, options: argparse.Namespace, store: StreamStore, history: History) -> None:
        self.name: str = options.name
        self.users: list[str] = json.loads(options.users)
        self.pace: float = options.pace
        self.size: int = options.size
        self.restless: bool = options.restless
        self.random = Random(options.name)
        self.history = history
        self.notifier = Notifier(store, audit_interval=3600.0, timeout=options.timeout)
        self.gate = anyio.Event()
        self.gate.set()
        self.busy = 0
        self.stopped = False
        self.save = self.push_one

    async def obey(self) -> None:
        """Do as told until told to stop."""
        while not self.stopped:
            await anyio.wait_readable(sys.stdin)
            for word in os.read(sys.stdin.fileno(), 1000).decode().split() or ["stop"]:
                await self.do(word)

    async def do(self, word: str) -> None:
        if word == "pause":
            if self.gate.is_set():
                self.gate = anyio.Event()
            while self.busy:  # noqa: ASYNC110 - each of them ends within its bound
                await anyio.sleep(0.01)
            say("paused")
        elif word == "go":
            self.gate.set()
        elif word == "memory":
            say("memory", peak_memory())
        else:
            self.stopped = True
            self.gate.set()

    async def may_go_on(self) -> bool:
        """Wait while there is a pause, and return whether this is not the end."""
        while not self.gate.is_set():  # asked again after each wait: whoever goes on does so in the same step
            await self.gate.wait()
        return not self.stopped

    def haste(self) -> float:
        """Seconds after which the application loses its patience: mostly too few, if it is restless."""
        return self.random.choice((0.0, 0.0005, 0.002, 0.005, 30.0)) if self.restless else 30.0

    # -- pushing -------------------------------------------------------------------------------------------------

    async def push(self, user: str, lane: int) -> None:
        """Push numbers to one user; every second has a key, and is repeated until its outcome is known."""
        number = 0
        while await self.may_go_on():
            number += 1
            value = f"{self.name}-{lane}-{number}"
            self.busy += 1
            for _ in range(1 if number % 2 else REPEATS):
                if await self.push_once(user, value, None if number % 2 else value):
                    break
            self.busy -= 1
            await anyio.sleep(self.pace)

    async def push_once(self, user: str, value: str, key: str | None) -> bool:
        """Push, and return whether the outcome is known."""
        try:
            with anyio.move_on_after(self.haste()), self.history.pushing(user, value, key=key) as attempt:
                event = await self.save(user, value, [value, "x" * self.size], key)
                if event is None:
                    attempt.rejected()
                else:
                    attempt.ok(event.id)
                return True
        except PushUncertainError:
            pass
        except BackendError:
            await anyio.sleep(0.02)
            return True
        return False

    async def push_one(self, user: str, value: str, payload: list[str], key: str | None) -> Event | None:
        """Push once. Workers of other roles save something else: `save`."""
        return await self.notifier.push(user, "n", payload, key=key)

    async def push_many(self, lane: int) -> None:
        """Push to everybody at once, in another order each time."""
        number = 0
        while await self.may_go_on():
            number += 1
            value = f"{self.name}-many{lane}-{number}"
            users = self.random.sample(self.users, len(self.users))
            attempts = {user: self.history.pushing(user, value) for user in users}
            self.busy += 1
            try:
                with anyio.move_on_after(self.haste()):
                    report = await self.notifier.push_many(users, "n", [value, "x" * self.size])
                    for user, event in report.events.items():
                        attempts[user].ok(event.id)
                    for user, error in report.failed.items():
                        if not isinstance(error, PushUncertainError):
                            attempts[user].rejected()
            except BackendError:
                await anyio.sleep(0.02)  # nobody's was stored, for the reason that the first one met
            for attempt in attempts.values():
                attempt.uncertain()  # unless it is known by now
            self.busy -= 1
            await anyio.sleep(self.pace)

    # -- reading -------------------------------------------------------------------------------------------------

    async def read(self, user: str, start: str) -> None:
        """Read one user's log from a position; a restless reader leaves now and then, and resumes where it was."""
        while await self.may_go_on():
            reader = self.history.reader(user, start)
            try:
                async with self.notifier.subscribe(user, start, signals=True) as stream:
                    await self.read_stream(stream, reader)
            except BackendUnavailableError:
                await anyio.sleep(0.02)  # it could not be opened
            start = reader.last_id or start
            reader.finished()

    async def read_stream(self, stream: Stream, reader: Reader) -> None:
        """Note what a stream yields, until it is time to leave it."""
        while await self.may_go_on():
            with anyio.move_on_after(self.haste()):
                event = await stream.next()
                if event.type == "notify.gap":
                    reader.gap(event.payload["reason"], event.payload["from"], event.payload["to"])
                elif event.type != "notify.sync":
                    reader.event(event, event.meta.get("by") or event.payload[0])
                if self.restless and self.random.random() < 0.02:
                    return

    async def browse(self, user: str, start: str, port: int) -> None:
        """As `read`, by HTTP."""
        from .browsing import Browser  # with its client, which the other workers do without

        browser = Browser(port, self.restless, self.random)
        while await self.may_go_on():
            reader = self.history.reader(user, start)
            await browser.read(reader, start, self.may_go_on)
            start = reader.last_id or start
            reader.finished()


def say(*words: object) -> None:
    """Print one line at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def peak_memory() -> int:
    """Return the kilobytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def run(options: argparse.Namespace) -> None:
    """Work until told to stop, close, and say what is left."""
    with History(options.history) as history:
        store = open_store(options.store, options.space, **json.loads(options.options))
        worker = Worker(options, store, history)
        async with anyio.create_task_group() as tasks:
            if options.role == "tend":
                from .tending import Tending  # as above

                worker.save = Tending(worker.notifier, store, worker.random).save
            if options.role in ("push", "tend"):
                for user in worker.users:
                    for lane in range(options.lanes):
                        tasks.start_soon(worker.push, user, lane)
                for lane in range(options.many):
                    tasks.start_soon(worker.push_many, lane)
            else:
                starts = json.loads(options.starts)
                for user in worker.users:
                    start = starts.get(user, ids.ZERO)
                    if options.role == "read":
                        tasks.start_soon(worker.read, user, start)
                    else:
                        tasks.start_soon(worker.browse, user, start, options.port)
            say("ready")
            await worker.obey()
            if options.role not in ("push", "tend"):
                tasks.cancel_scope.cancel()
        await worker.notifier.aclose()
        await store.aclose()
    await anyio.lowlevel.checkpoint()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    threads = {thread for thread in threading.enumerate() if not thread.daemon} - {threading.main_thread()}
    say("left", *left, *threads)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["push", "tend", "read", "browse"])
    parser.add_argument("--store", required=True, help="the URL of the store")
    parser.add_argument("--space", required=True, help="the prefix or schema that keeps this run apart from others")
    parser.add_argument("--options", default="{}", help="of the store's constructor, as JSON")
    parser.add_argument("--history", required=True, help="the file that takes the records")
    parser.add_argument("--name", required=True, help="begins the value of each push")
    parser.add_argument("--users", required=True, help="a JSON list")
    parser.add_argument("--starts", default="{}", help="the position to resume from for each user, as JSON")
    parser.add_argument("--lanes", type=int, default=2, help="pushers to each user")
    parser.add_argument("--many", type=int, default=0, help="pushers to all users at once")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two pushes of one lane")
    parser.add_argument("--size", type=int, default=10, help="bytes of a payload")
    parser.add_argument("--timeout", type=float, default=10.0, help="the notifier's")
    parser.add_argument("--port", type=int, default=0, help="of the web server that is read")
    parser.add_argument("--restless", action="store_true", help="give up waiting now and then")
    parser.add_argument("--nice", type=int, default=0, help="by how much its priority is lowered")
    options = parser.parse_args()
    os.nice(options.nice)
    anyio.run(run, options)


if __name__ == "__main__":
    main()
