"""The main use case on real input, with real processes and one SQLite file: push, kill the reader, resume, verify.

web-1 is the command `notify push --stdin`, which pushes each line of the feed as it arrives. web-2 has an open stream
for each user of the feed and prints the events. It is killed several times while the pushes continue; a new process
then resumes each user after the last id that the killed one had shown. At the end the history checker of notify.testing
verifies every push and every event shown.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import ByteReceiveStream, Process, TaskGroup
from console import Source, bold, fit, open_source, paint, say
from report import Totals, summarise

from notify import InvalidEventError, ids
from notify.event import check_user
from notify.testing.history import Attempt, History, Reader

HERE: Final = Path(__file__).parent
PATIENCE: Final = 10.0  # seconds for the streams to catch up at the end; events not shown by then count as lost
FIRST_KILL: Final = 3  # the reader is killed after 3, 15, 75, ... pushes, and replaced after twice as many
SHOWN: Final = 8  # live events printed after each announcement, and as many resumed ones
BROKEN, INCOMPLETE, INTERRUPTED, CUT_OFF = 1, 2, 130, 141


async def lines_of(stream: ByteReceiveStream | None) -> AsyncIterator[str]:
    """Yield the output of another process line by line, without an incomplete last line."""
    assert stream is not None
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode()


class Watcher:
    """The process that shows events: its streams, and what they have shown."""

    def __init__(self, demo: Demo, name: str, process: Process) -> None:
        self.demo, self.name, self.process = demo, name, process
        self.readers: dict[str, Reader] = {}
        self.shown = 0
        self.ready, self.ended = anyio.Event(), anyio.Event()

    async def open(self, user: str) -> None:
        """Open a stream in the process, from the last id shown."""
        after = self.demo.last_ids[user]
        self.readers[user] = self.demo.history.reader(user, after)
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps({"user": user, "after": after}).encode() + b"\n")

    async def read(self) -> None:
        """Read the output of the process until it ends."""
        async for line in lines_of(self.process.stdout):
            seen = json.loads(line)
            if "user" in seen:
                self._take(seen)
            elif "hidden" in seen:
                self.demo.totals.hidden = seen["hidden"]
            else:
                self.ready.set()
        self.ended.set()
        self.ready.set()

    def _take(self, seen: dict[str, Any]) -> None:
        demo, user = self.demo, seen["user"]
        reader = self.readers[user]
        if seen["type"] == "notify.gap":
            gap = seen["payload"]
            reader.gap(gap["reason"], gap["from"], gap["to"])
            demo.last_ids[user] = gap["to"]
            return
        reader.saw(seen["id"], seen["prev"], name(seen["key"], seen["type"], seen["payload"]))
        demo.last_ids[user] = seen["id"]
        self.shown += 1
        demo.show(seen)

    async def kill(self) -> None:
        """Kill the process, and read the output it had written."""
        self.process.kill()
        await self.ended.wait()
        await self.process.wait()
        for reader in self.readers.values():
            reader.finished()


def name(key: str, type_: str, payload: Any) -> str:
    """Return a unique name of this push that includes its payload, so that a corrupted payload is detected."""
    return f"line {key.rpartition(':')[2]}: {type_} {json.dumps(payload, ensure_ascii=False)}"


class Demo:
    """Feeds web-1, kills and replaces web-2, and records every push and every event shown."""

    def __init__(self, file: str, tasks: TaskGroup, options: argparse.Namespace) -> None:
        self.file, self.tasks, self.options = file, tasks, options
        self.history, self.totals = History(), Totals()
        self.last_ids: dict[str, str] = {}
        self.attempts: dict[int, tuple[str, str, Attempt]] = {}
        self.pushed: dict[str, dict[str, str]] = {}  # by user, then by id: the name of the push
        self.seen: dict[str, int] = {}
        self.handed = 0  # events passed to web-1
        self.next_kill = FIRST_KILL
        self.processes: list[Process] = []
        self.left = {True: SHOWN, False: SHOWN}  # events still to be printed, by whether they are live
        self.pushing_ended, self.moved = anyio.Event(), anyio.Event()
        self.replacing = anyio.Lock()
        self.due = -math.inf
        self.watcher: Watcher | None = None
        self.pusher: Process

    async def start(self) -> None:
        """Start both processes."""
        await self.start_watcher()
        command = [sys.executable, "-m", "notify", "push", "--stdin", "--ids", "--store", f"sqlite:///{self.file}"]
        self.pusher = await self._start_process(command)
        self.tasks.start_soon(self._read_ids)
        self.tasks.start_soon(self._read_errors)

    async def start_watcher(self) -> None:
        """Start the process that shows events, with a stream for each known user."""
        sabotage = ["--sabotage", *self.totals.hidden.split()] if self.options.sabotage and self.totals.kills else []
        command = [sys.executable, str(HERE / "watcher.py"), self.file, *sabotage]
        process = await self._start_process(command, stderr=None)
        watcher = Watcher(self, f"web-{self.totals.kills + 2}", process)
        self.tasks.start_soon(watcher.read)
        await watcher.ready.wait()
        if watcher.ended.is_set():
            raise RuntimeError(f"{watcher.name} ended unexpectedly")
        while users := [user for user in self.last_ids if user not in watcher.readers]:
            await watcher.open(users[0])
        self.watcher = watcher

    async def _start_process(self, command: list[str], stderr: int | None = subprocess.PIPE) -> Process:
        process = await anyio.open_process(
            command, stderr=stderr, start_new_session=True
        )  # Ctrl-C goes to this process only
        self.processes.append(process)
        return process

    # -- pushing ---------------------------------------------------------------------------------------------------

    async def take(self, number: int, line: bytes) -> None:
        """Pass a line of the feed to web-1, and open a stream for a new user."""
        await anyio.sleep_until(self.due)
        self.due = max(self.due, anyio.current_time()) + (1 / self.options.rate if self.options.rate else 0.0)
        with anyio.CancelScope(shield=True):
            await self._push(number, line)
            await self._kill_or_replace()

    async def _push(self, number: int, line: bytes) -> None:
        try:
            first, second, *rest = line.removeprefix(b"\xef\xbb\xbf").split(None, 2)
            user, type_, payload = first.decode(), second.decode(), json.loads(rest[0]) if rest else None
            check_user("" if user.startswith("#") else user)
        except (ValueError, RecursionError, InvalidEventError):
            pass  # not an event; web-1 reports it if it is malformed
        else:
            what = name(str(number), type_, payload)
            self.handed += 1
            self.attempts[number] = user, what, self.history.pushing(user, what, key=str(number))
            if user not in self.last_ids:
                self.last_ids[user] = ids.ZERO
                if self.watcher is not None:
                    await self.watcher.open(user)
        assert self.pusher.stdin is not None
        await self.pusher.stdin.send(line + b"\n")

    async def _kill_or_replace(self) -> None:
        """Kill or replace the reader when it is due."""
        if self.watcher is not None and self.handed >= self.next_kill:
            watcher, self.watcher = self.watcher, None
            with anyio.move_on_after(2):
                while not watcher.shown:
                    await self.moved.wait()
            await watcher.kill()
            self.totals.kills += 1
            self.announce(f"{watcher.name} is killed after showing {watcher.shown} events; pushes continue")
            self.tasks.start_soon(self._replace_in_time, self.totals.kills)
        elif self.watcher is None and self.handed >= 2 * self.next_kill:
            await self._replace()

    async def _replace_in_time(self, kills: int) -> None:
        """Replace the reader after two seconds, even if few lines arrive: they may be typed."""
        await anyio.sleep(2.0)
        if kills == self.totals.kills:  # otherwise it was replaced, and the next one has been killed since
            await self._replace()

    async def _replace(self) -> None:
        async with self.replacing:
            if self.watcher is None:
                self.announce(f"web-{self.totals.kills + 2} takes over, and resumes each user after the last id shown")
                await self.start_watcher()
                self.next_kill *= 5

    async def _read_ids(self) -> None:
        async for line in lines_of(self.pusher.stdout):
            number, id_ = line.split(" ", 1)
            if number.isdigit():
                user, what, attempt = self.attempts.pop(int(number))
                attempt.ok(id_)
                self.pushed.setdefault(user, {})[id_] = what
                self.totals.pushed += 1
                if self.totals.pushed % 50 == 0:
                    self.say(f"{'':4} ... {self.totals.pushed} pushed, {sum(self.seen.values())} shown")
        self.pushing_ended.set()

    async def _read_errors(self) -> None:
        async for line in lines_of(self.pusher.stderr):
            match = re.match(r"notify: line (\d+): (.*)", line)
            if match:
                say(f"line {match[1]} skipped: {match[2]}", sys.stderr)
                self.totals.skipped += 1
                if int(match[1]) in self.attempts:
                    self.attempts.pop(int(match[1]))[2].rejected()

    async def finish(self) -> None:
        """End the feed, and wait until the streams have shown everything."""
        assert self.pusher.stdin is not None
        await self.pusher.stdin.aclose()
        await self.pushing_ended.wait()
        await self.pusher.wait()
        await self._replace()
        with anyio.move_on_after(PATIENCE):
            for user, pushed in self.pushed.items():
                while ids.compare(self.last_ids[user], next(reversed(pushed))) < 0:
                    await self.moved.wait()

    # -- output ----------------------------------------------------------------------------------------------------

    def show(self, seen: dict[str, Any]) -> None:
        """Count an event, and print it unless enough have been printed since the last announcement."""
        user = seen["user"]
        self.seen[user] = self.seen.get(user, 0) + 1
        self.moved.set()
        self.moved = anyio.Event()
        delay = time.time() - seen["pushed_at"]
        self.totals.count(delay if seen["live"] else None)
        self.left[seen["live"]] -= 1
        if self.left[seen["live"]] >= 0 or self.options.all:
            number = seen["key"].rpartition(":")[2]
            after = f"{delay * 1000:.0f} ms" if seen["live"] else "resumed"
            payload = "" if seen["payload"] is None else json.dumps(seen["payload"], ensure_ascii=False)
            text = f"{number:>4} {after:>8} {seen['id']:<16} {fit(user, 9)} {seen['type']} {payload}"
            self.say(paint(fit(text).rstrip(), list(self.last_ids).index(user)))

    def announce(self, text: str) -> None:
        """Print an announcement."""
        self.left = {True: SHOWN, False: SHOWN}
        self.say(bold(fit(f">>>> {text}").rstrip()))

    def say(self, text: str) -> None:
        """Print a line, unless `--quiet`."""
        if not self.options.quiet:
            say(text)


async def run(source: Source, options: argparse.Namespace) -> int:
    """Run the demo and return its exit status."""
    with tempfile.TemporaryDirectory(prefix="notify-demo-") as directory:
        with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
            async with anyio.create_task_group() as tasks:
                demo = Demo(f"{directory}/notify.db", tasks, options)
                feeding = anyio.CancelScope()
                tasks.start_soon(stop_on_interrupt, interrupts, feeding, tasks.cancel_scope)
                try:
                    await demo.start()
                    demo.say(f"{'line':>4} {'after':>8} {'id':<16} {'user':<9} type payload")
                    with feeding:
                        await source.read_lines(demo.take)
                    await demo.finish()
                    ok = summarise(demo)
                finally:
                    with anyio.CancelScope(shield=True):
                        for process in demo.processes:
                            if process.returncode is None:
                                with suppress(ProcessLookupError):
                                    process.kill()
                            await process.wait()
                tasks.cancel_scope.cancel()
                if not ok:
                    return BROKEN
                if feeding.cancel_called:
                    return INTERRUPTED
                return INCOMPLETE if demo.totals.skipped or not demo.totals.pushed or options.sabotage else 0
    return INTERRUPTED


async def stop_on_interrupt(interrupts: AsyncIterator[int], *scopes: anyio.CancelScope) -> None:
    """End the feed at the first Ctrl-C, and the demo at the second."""
    for scope in scopes:
        await anext(interrupts)
        scope.cancel()


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description="Push a feed in one process, show it in another, kill that one, resume, and verify what was shown.",
        epilog='A line is USER TYPE [JSON], as in: alice comment.created {"post": 7}. Blank lines and those that begin '
        "with # are ignored. Invalid lines are reported with their number and skipped. Exit status: 0 if nothing was "
        "lost or duplicated; 1 if something was; 2 if lines were skipped, nothing was pushed, or the arguments are "
        "wrong; 130 after Ctrl-C, which ends the feed; the verdict is still printed.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="file with lines, - for standard input (end with Ctrl-D); "
        "default: piped input if there is any, otherwise the sample feed",
    )
    parser.add_argument("--rate", type=float, default=60.0, help="events per second, 0 for no limit (default: 60)")
    parser.add_argument("--all", action="store_true", help="print every event, not only some after each announcement")
    parser.add_argument("--quiet", action="store_true", help="print the verdict only")
    parser.add_argument(
        "--sabotage", action="store_true", help="hide one event from the reader, to see the checker find it"
    )
    options = parser.parse_args()
    if not 0 <= options.rate < math.inf:
        parser.error("argument --rate: expected a number of at least 0")
    try:
        source = open_source(options.file, str(HERE / "feed.txt"))
    except OSError as error:
        parser.error(f"cannot read {options.file}: {error.strerror}")
    say(bold(f"web-1 pushes the lines of {source.name}; web-2 follows every user's stream; both use one SQLite file."))
    if not options.quiet:
        say("line: number in the feed   after: time since the push, or resumed after a kill   id: resume position")
    if source.is_terminal:
        say('Type a line such as: alice comment.created {"post": 7}    Ctrl-D ends.')
    return anyio.run(partial(run, source, options))


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot display ø must not end the demo
    try:
        sys.exit(main())
    except* KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except* BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os._exit(CUT_OFF)
