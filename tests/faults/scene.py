"""An application of several processes at work: pushers and readers, watched by the files that they write."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from notify import ids
from notify.testing import History, Verdict
from tests.forks import Fork
from tests.parts import until, untraced_environment

from .backends import Backend

USERS = ("alice", "bob", "carol")
PATIENCE = 30.0

COMPLAINTS = ("crashed", "Exception in callback", "Task exception was never retrieved", "left behind")
"""What no process of ours says, whatever happens to it."""


class Log:
    """What a history file says so far.

    Attributes:
        counts: records by kind.
        acked: the highest acknowledged id of each user.
        last: the id that was acknowledged last, of each user.
        positions: how far each user's reader is.
        gaps: users and reasons, in the order in which they were met.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.acked: dict[str, str] = {}
        self.positions: dict[str, str] = {}
        self.gaps: list[tuple[str, str]] = []
        self._users: dict[int, str] = {}
        self._offset = 0

    def read(self) -> None:
        """Take in what is new."""
        if not self.path.exists():
            return  # the process has only begun
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(new) + len(newline)
        for line in new.splitlines():
            kind, _, number, *fields = json.loads(line)
            self.counts[kind] += 1
            if kind in ("push", "reader"):
                self._users[number] = fields[0]
            if kind == "reader":
                self.positions[fields[0]] = fields[1]
            elif kind == "ok":
                user = self._users[number]
                self.acked[user] = max(self.acked.get(user, ids.ZERO), fields[0], key=ids.parse)
            elif kind == "saw":
                self.positions[self._users[number]] = fields[0]
            elif kind == "gap":
                self.gaps.append((self._users[number], fields[0]))
                self.positions[self._users[number]] = fields[2]


class Process:
    """One worker."""

    def __init__(self, role: str, name: str, directory: Path, arguments: Mapping[str, object]) -> None:
        self.role = role
        self.name = name
        self.log = Log(directory / f"{name}.history")
        self.killed = False
        self._out, self._errors = directory / f"{name}.out", directory / f"{name}.err"
        command = [role, "--name", name, "--history", str(self.log.path)]
        for option, value in arguments.items():
            if value is not False:
                command += [f"--{option}"] if value is True else [f"--{option}", str(value)]
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self._process = Fork("tests.faults.worker", *command, env=untraced_environment(), stdout=out, stderr=errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> list[str]:
        """The lines that it has printed."""
        self.check()
        return self._out.read_text().splitlines()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def check(self) -> None:
        """Assert that it has not crashed."""
        assert self.killed or not self._process.poll(), self.errors

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    async def ask(self, word: str, answer: str) -> str:
        """Send a word and return the line that begins with the answer to it."""
        before = sum(line.startswith(answer) for line in self.said)
        self.tell(word)
        await until(lambda: sum(line.startswith(answer) for line in self.said) > before, PATIENCE)
        return next(line for line in reversed(self.said) if line.startswith(answer))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; the file keeps what it has."""
        if self._process.poll() is None:
            self.killed = True
            self._process.kill()
        self._end()

    async def stop(self) -> None:
        """Have it close everything, and check that it left nothing and ended well."""
        if self.killed:
            return
        self.tell("stop")
        with anyio.fail_after(PATIENCE):
            while self._process.poll() is None:  # noqa: ASYNC110 - a child tells nobody
                await anyio.sleep(0.01)
        assert not self._process.returncode, self.errors
        for complaint in COMPLAINTS:
            assert complaint not in self.errors, self.errors
        assert self.said[-1] == "left", self.said[-1]
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self.log.read()


class Scene:
    """Pushers and readers on one backend.

    Args:
        backend: where the logs are.
        directory: for the files.
        users: whose logs.
        url: of the store that pushers use.
        read_url: of the store that readers use.
        store: options of the stores.
        options: of the workers.
    """

    def __init__(
        self,
        backend: Backend,
        directory: Path,
        *,
        users: Sequence[str] = USERS,
        url: str | None = None,
        read_url: str | None = None,
        store: Mapping[str, Any] | None = None,
        **options: object,
    ) -> None:
        self.backend = backend
        self.users = users
        self.space = backend.fresh_space()
        self.processes: list[Process] = []
        self._directory = directory
        self.urls = dict.fromkeys(("push", "tend", "browse"), url or backend.url)
        self.urls["read"] = read_url or url or backend.url
        self.store = {"max_len": 100_000, **backend.options, **(store or {})}
        self._options = options
        self._names = count()

    # -- processes -----------------------------------------------------------------------------------------------

    def start(self, role: str, **more: object) -> Process:
        """Start another process."""
        arguments = {
            "store": self.urls[role],
            "space": self.space,
            "options": json.dumps(self.store),
            "users": json.dumps(self.users),
            **self._options,
            **more,
        }
        process = Process(role, f"{self.space}-{role}{next(self._names)}", self._directory, arguments)
        self.processes.append(process)
        return process

    def resume(self, reader: Process, **more: object) -> Process:
        """Start a reader at the last ids of one that was killed."""
        reader.log.read()
        return self.start(reader.role, starts=json.dumps(reader.log.positions), **more)

    def living(self, role: str) -> list[Process]:
        return [process for process in self.processes if process.role == role and not process.killed]

    @property
    def pushers(self) -> list[Process]:
        return [*self.living("push"), *self.living("tend")]

    @property
    def readers(self) -> list[Process]:
        return [*self.living("read"), *self.living("browse")]

    async def ready(self) -> None:
        """Wait until every process is at work."""
        await until(lambda: all("ready" in process.said for process in self.processes if not process.killed), PATIENCE)

    # -- progress ------------------------------------------------------------------------------------------------

    def counted(self, kinds: str, processes: Sequence[Process] | None = None) -> int:
        """How many records of these kinds there are."""
        chosen = self.processes if processes is None else processes
        for process in chosen:
            process.log.read()
        return sum(process.log.counts[kind] for process in chosen for kind in kinds.split())

    async def more(self, kind: str, number: int, within: float = PATIENCE) -> None:
        """Wait until so many more records of these kinds were written."""
        goal = self.counted(kind) + number
        await self.until(lambda: self.counted(kind) >= goal, within, f"{number} more {kind!r}")

    async def until(self, condition: Callable[[], object], within: float, what: str) -> None:
        """Wait for a condition; if it does not come, say where everybody is."""
        try:
            with anyio.fail_after(within):
                while not condition():
                    await anyio.sleep(0.03)  # long enough to leave the processor to the processes
                    for process in self.processes:
                        process.check()
        except TimeoutError:
            state = [f"{each.name}: {dict(each.log.counts)} {each.errors[-500:]}" for each in self.processes]
            raise AssertionError("\n".join([f"{self.backend.name}: not within {within} s: {what}", *state])) from None

    def acked(self) -> dict[str, str]:
        """The highest acknowledged id of each user."""
        highest: dict[str, str] = {}
        for process in self.processes:
            process.log.read()
            for user, id_ in process.log.acked.items():
                highest[user] = max(highest.get(user, ids.ZERO), id_, key=ids.parse)
        return highest

    def caught_up(self) -> bool:
        """Whether every reader has reached everything that was acknowledged."""
        acked = self.acked()
        return all(
            ids.compare(reader.log.positions.get(user, ids.ZERO), id_) >= 0
            for user, id_ in acked.items()
            for reader in self.readers
        )

    async def pause(self) -> None:
        """Let the pushes under way end, and begin no others."""
        async with anyio.create_task_group() as tasks:
            for pusher in self.pushers:
                tasks.start_soon(pusher.ask, "pause", "paused")

    def go(self) -> None:
        for pusher in self.pushers:
            pusher.tell("go")

    async def quiet(self, within: float) -> None:
        """Pause, and wait until every reader has everything."""
        await self.pause()
        await self.until(self.caught_up, within, "every reader has everything that was acknowledged")

    # -- the end -------------------------------------------------------------------------------------------------

    async def judge(self, *, within: float = 10.0, durable: bool = True) -> Verdict:
        """End the pushing, let the readers catch up, end them too, and judge what all of them have written."""
        await self.quiet(within)
        async with anyio.create_task_group() as tasks:
            for process in self.processes:
                tasks.start_soon(process.stop)
        alive = [process.log.path for process in self.processes if not process.killed]
        killed = [process.log.path for process in self.processes if process.killed and process.log.path.exists()]
        history = await anyio.to_thread.run_sync(lambda: History.load(*alive, killed=killed))
        return await anyio.to_thread.run_sync(lambda: history.assert_ok(durable=durable))

    def close(self) -> None:
        """End what still runs, frozen or not."""
        for process in self.processes:
            process.kill()


@asynccontextmanager
async def scene(
    backend: Backend, directory: Path, *, pushers: int = 2, readers: int = 1, role: str = "push", **options: Any
) -> AsyncIterator[Scene]:
    """Run pushers (`tend`: inboxes too) and readers until the block ends; it begins once they have done something."""
    scene = Scene(backend, directory, **options)
    try:
        for _ in range(readers):
            scene.start("read")
        for _ in range(pushers):
            scene.start(role)
        await scene.ready()
        await scene.more("saw", 50)
        yield scene
    finally:
        scene.close()


def gap_of_each(scene: Scene, reader: Process, reason: str) -> None:
    """Assert that this reader was told of exactly one gap of each user, for this reason."""
    reader.log.read()
    assert sorted(reader.log.gaps) == sorted((user, reason) for user in scene.users)


STOP, CONTINUE = signal.SIGSTOP, signal.SIGCONT
