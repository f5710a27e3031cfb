"""The main job on real input: push events, break off readers, resume them elsewhere, judge what everybody saw.

Two notifiers, web-1 and web-2, stand for two processes of a web application. Each user of the feed has a phone
connected to one and a laptop connected to the other; the pushes are made on both in turn. Now and then a device
loses its connection while the pushes go on, and comes back on the other instance with the last id that it saw.
At the end the history checker of notify.testing judges every push and every event that a device saw.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus
from console import WIDTH, Source, bold, fit, open_source, paint, parse, say
from report import summarise
from sabotage import LeakyStore

from notify import Event, InvalidEventError, Notifier, ids
from notify.testing.history import History
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore

SAMPLE: Final = Path(__file__).with_name("feed.txt")
PATIENCE: Final = 10.0  # seconds that the devices have to catch up at the end; what they lack then is lost
FIRST_BREAK: Final = 2  # devices break off after 2, 8, 32, ... pushes; each is back after twice as many
BROKEN, INCOMPLETE, INTERRUPTED = 1, 2, 130


def name(event: Event) -> str:
    """Return what tells this push from every other, payload and all: one that changed on its way has another name."""
    return f"line {event.key}: {event.user} {event.type} {event.data.decode()}"


class Device:
    """One device of one user: reads a stream and remembers the last id that it saw."""

    def __init__(self, demo: Demo, user: str, kind: str, colour: int) -> None:
        self.demo, self.user, self.kind, self.colour = demo, user, kind, colour
        self.instance, self.last_id = "", ids.ZERO
        self.seen = self.replayed = 0
        self.moved = anyio.Event()

    async def connect(self, notifier: Notifier, missed: Collection[str] | None = None) -> None:
        """Open a stream from the last id seen."""
        with anyio.CancelScope(shield=True):
            await self.demo.tasks.start(self._read, notifier, missed)

    async def break_off(self) -> None:
        """Lose the connection, in the middle of whatever the stream does."""
        self.connection.cancel()
        with anyio.CancelScope(shield=True):
            await self.ended.wait()
        self.record.finished()

    async def reach(self, id_: str) -> None:
        """Wait until the stream has replayed the past and got this far."""
        await self.synced.wait()
        while ids.compare(self.last_id, id_) < 0:
            await self.moved.wait()

    async def _read(self, notifier: Notifier, missed: Collection[str] | None, *, task_status: TaskStatus[None]) -> None:
        self.instance = notifier.instance_id
        self.record = self.demo.history.reader(self.user, self.last_id)
        self.synced, self.ended = anyio.Event(), anyio.Event()
        caught_up = 0
        with anyio.CancelScope() as self.connection:
            async with notifier.subscribe(self.user, self.last_id, signals=True) as stream:
                task_status.started()
                async for event in stream:
                    if event.type == "notify.sync":
                        self.synced.set()
                        if missed is not None:
                            self.demo.count_replay(self, len(missed), caught_up)
                    elif event.type == "notify.gap":
                        gap = event.payload
                        self.record.gap(gap["reason"], gap["from"], gap["to"])
                    else:
                        self._see(event)
                        caught_up += missed is not None and event.id in missed
        self.ended.set()

    def _see(self, event: Event) -> None:
        self.record.event(event, name(event))
        self.last_id = event.id
        self.seen += 1
        self.replayed += not self.synced.is_set()
        self.demo.show(self, event)
        self.moved.set()
        self.moved = anyio.Event()


class Demo:
    """Pushes what it is given, breaks devices off and brings them back, and keeps a record of everything."""

    def __init__(self, notifiers: tuple[Notifier, Notifier], tasks: TaskGroup, *, rate: float, quiet: bool) -> None:
        self.notifiers, self.tasks, self.quiet = notifiers, tasks, quiet
        self.history = History()
        self.devices: dict[str, tuple[Device, Device]] = {}
        self.pushed: dict[str, dict[str, str]] = {}  # by user: the name of each push, by its id
        self.began: dict[str, float] = {}  # by name
        self.latencies: list[float] = []
        self.pushes = self.skipped = self.missed = self.caught_up = 0
        self.breaks: Counter[str] = Counter()
        self.next_break = FIRST_BREAK
        self.away: Device | None = None
        self.pause = 1 / rate if rate else 0.0
        self.due = -math.inf

    # -- pushing ---------------------------------------------------------------------------------------------------

    async def take(self, number: int, line: bytes) -> None:
        """Push what a line of the feed says; complain about one that is no event, and skip it."""
        try:
            draft = parse(number, line)
            if draft is not None:
                await self.push(draft)
        except (ValueError, InvalidEventError) as error:
            self.skipped += 1
            say(f"line {number} skipped: {error}", sys.stderr)

    async def push(self, draft: Event) -> None:
        """Push to one instance or the other, once the user's devices are connected."""
        await anyio.sleep_until(self.due)
        self.due = max(self.due, anyio.current_time()) + self.pause
        user = draft.user
        if user not in self.devices:
            colour = len(self.devices)
            self.devices[user] = Device(self, user, "phone", colour), Device(self, user, "laptop", colour)
            self.pushed[user] = {}
            for device, notifier in zip(self.devices[user], self.notifiers, strict=True):
                await device.connect(notifier)
        self.began[name(draft)] = time.perf_counter()
        with self.history.pushing(user, name(draft), key=draft.key) as attempt:
            notifier = self.notifiers[self.pushes % 2]
            event = await notifier.push(user, draft.type, draft.payload, key=draft.key)
            assert event is not None  # only `offline="drop"` returns None
            attempt.ok(event.id)
        self.pushed[user][event.id] = name(draft)
        self.pushes += 1
        if self.pushes == self.next_break:
            await self.break_off()
        elif self.pushes == 2 * self.next_break:
            await self.bring_back()
            self.next_break *= 4

    async def break_off(self) -> None:
        """Break off a device of whoever gets the most, everybody in turn."""
        user = min(self.devices, key=lambda user: (self.breaks[user], -len(self.pushed[user])))
        device = self.away = self.devices[user][self.breaks.total() % 2]
        self.breaks[user] += 1
        await device.break_off()
        self.announce(device, f"loses {device.instance} after {device.last_id}; pushes go on")

    async def bring_back(self) -> None:
        """Reconnect the device that is away, on the other instance."""
        device, self.away = self.away, None
        if device is not None:
            first, second = self.notifiers
            other = second if device.instance == first.instance_id else first
            self.announce(device, f"resumes on {other.instance_id} from {device.last_id}")
            missed = {id_ for id_ in self.pushed[device.user] if ids.compare(id_, device.last_id) > 0}
            await device.connect(other, missed)

    async def settle(self) -> None:
        """Give every device time to get what was pushed."""
        await self.bring_back()
        with anyio.move_on_after(PATIENCE):
            for user, devices in self.devices.items():
                for device in devices:
                    await device.reach(next(reversed(self.pushed[user]), ids.ZERO))

    # -- telling ---------------------------------------------------------------------------------------------------

    def show(self, device: Device, event: Event) -> None:
        """Show what a device sees, while it does."""
        if device.synced.is_set() and name(event) in self.began:
            self.latencies.append(time.perf_counter() - self.began[name(event)])
        if not self.quiet:
            where = f"{fit(device.user, 9)} {device.kind:>6}@{device.instance}"
            payload = event.data.decode() if event.data != b"null" else ""
            what = f"{'' if device.synced.is_set() else 'replayed: '}{event.type} {payload}"
            say(paint(f"{event.key:>4} {where} {event.id:<15} {fit(what, WIDTH - 44)}".rstrip(), device.colour))

    def count_replay(self, device: Device, missed: int, caught_up: int) -> None:
        """Count what a device missed, and how much of it the replay brought."""
        self.missed += missed
        self.caught_up += caught_up
        self.announce(device, f"missed {missed}, caught up {caught_up}")

    def announce(self, device: Device, text: str) -> None:
        """Tell what becomes of a device."""
        if not self.quiet:
            say(bold(fit(f"  >> {device.user}'s {device.kind} {text}", WIDTH).rstrip()))


async def run(source: Source, *, rate: float, quiet: bool, sabotage: bool) -> int:
    """Run the demo and return its exit status."""
    leaky = LeakyStore(max_len=sys.maxsize)
    store = leaky if sabotage else MemoryStore(max_len=sys.maxsize)
    router, presence = MemoryRouter(), MemoryPresence()
    with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with (
            Notifier(store, router=router, presence=presence, instance_id="web-1") as first,
            Notifier(store, router=router, presence=presence, instance_id="web-2") as second,
            anyio.create_task_group() as tasks,
        ):
            demo = Demo((first, second), tasks, rate=rate, quiet=quiet)
            feeding = anyio.CancelScope()
            tasks.start_soon(stop_on_interrupt, interrupts, feeding, tasks.cancel_scope)
            with feeding:
                await source.read_lines(demo.take)
            await demo.settle()
            ok = summarise(demo, leaky.lost)
            tasks.cancel_scope.cancel()
            if not ok:
                return BROKEN
            if feeding.cancel_called:
                return INTERRUPTED
            return INCOMPLETE if demo.skipped or not demo.pushes or sabotage else 0
    return INTERRUPTED


async def stop_on_interrupt(interrupts: AsyncIterator[int], *scopes: anyio.CancelScope) -> None:
    """End the feed at the first Ctrl-C, and everything at the second."""
    for scope in scopes:
        await anext(interrupts)
        scope.cancel()


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description="Push events to users on two instances, break connections, resume, and judge what was seen.",
        epilog='A line is USER TYPE [JSON], as in: alice comment.created {"post": 7}. Blank lines and those that begin '
        "with # are ignored. A line that is no event is reported with its number and skipped. Exit status: 0 if "
        "nothing was lost or doubled; 1 if something was; 2 if lines were skipped, nothing was pushed, or the "
        "arguments are wrong; 130 after Ctrl-C, which ends the feed and still gives the verdict.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="lines to read, - for standard input (type them, end with Ctrl-D); "
        "without it what is piped in, or else the sample feed",
    )
    parser.add_argument("--rate", type=float, default=60.0, help="events per second, 0 for no limit (default: 60)")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    parser.add_argument("--sabotage", action="store_true", help="lose one event on its way, to see the checker find it")
    options = parser.parse_args()
    if not 0 <= options.rate < math.inf:
        parser.error("argument --rate: a number that is not negative")
    try:
        source = open_source(options.file, str(SAMPLE))
    except OSError as error:
        parser.error(f"cannot read {options.file}: {error.strerror}")
    say(bold(f"Events from {source.name}, to phones and laptops on web-1 and web-2"))
    if source.is_terminal:
        say('Type a line such as: alice comment.created {"post": 7}    Ctrl-D ends.')
    return anyio.run(partial(run, source, rate=options.rate, quiet=options.quiet, sabotage=options.sabotage))


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ø must not end the demo
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it like any other tool
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
