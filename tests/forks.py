"""Python processes that start within milliseconds: forks of one process that has imported what they need.

An interpreter that imports the library and a driver needs a third of a second of processor time for that, most of what
a short process needs in all. A fork starts after these imports. From then on it behaves like `python -m MODULE`: a
process with its own streams, environment, session and working directory, which runs the module as `__main__` and ends
as any interpreter does. Its coverage is measured if its environment says so.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import itertools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

from tests.parts import MEASURES, untraced_environment

ROOT: Final = Path(__file__).parent.parent

IMPORTED: Final = (
    "anyio._backends._asyncio",
    "notify.cli",
    "notify.inbox",
    "notify.dispatch._dispatcher",
    "notify.testing",
    "notify_memory",
    "notify_pg",
    "notify_redis",
    "notify_sqlite",
)
"""Modules that are imported once, before any fork."""


SEEDS: Final = 2
"""Processes that fork, in turns: a fault in the order of locks taken from sets shows only if two orders differ."""

_numbers = itertools.count()


class Fork:
    """A process with the methods of `subprocess.Popen` that tests use; streams that are not given are pipes.

    Args:
        module: what it runs, as `python -m` does.
        arguments: of its command line.
        cwd: its working directory.
        env: its environment; that of this process unless given.
        stdin, stdout, stderr: open files.
        text: whether the pipes take and yield text.
        strict: whether warnings are errors.
        imports: further modules that are imported before the fork.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: IO[Any] | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        text: bool = False,
        strict: bool = True,
        imports: tuple[str, ...] = (),
    ) -> None:
        self.args = [module, *map(str, arguments)]
        self.returncode: int | None = None
        theirs: list[int] = []
        ours: list[IO[Any] | None] = []
        for number, file in enumerate((stdin, stdout, stderr)):
            if file is not None:
                theirs.append(os.dup(file.fileno()))
                ours.append(None)
                continue
            reading, writing = os.pipe()
            theirs.append(writing if number else reading)
            mode = ("r" if number else "w") + ("" if text else "b")
            ours.append(open(reading if number else writing, mode))
        self.stdin, self.stdout, self.stderr = ours
        self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._receiving = threading.Lock()
        weakref.finalize(self, self._status.close)
        environment = dict(os.environ if env is None else env)
        order = json.dumps([self.args, str(cwd), environment, strict]).encode()
        seed = 0 if imports else next(_numbers) % SEEDS
        forking = _forking(environment.get(MEASURES), seed, imports)
        socket.send_fds(forking, [order], [*theirs, status.fileno()])
        status.close()
        for each in theirs:
            os.close(each)
        self.pid = int(self._status.recv(100))

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends; return its exit status."""
        ended = self._ended(timeout)
        if ended is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return ended

    def _ended(self, timeout: float | None) -> int | None:
        waiting = select.poll()
        waiting.register(self._status, select.POLLIN)
        if waiting.poll(timeout and 1000 * timeout):
            with self._receiving:  # the status stays in the socket: several threads may wait for it
                if self.returncode is None:
                    self.returncode = int(self._status.recv(100, socket.MSG_PEEK))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended, and its status is on the way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write its input, wait until it ends, and return what it wrote to standard output and standard error."""
        found: dict[int, Any] = {}

        def read(number: int, file: IO[Any]) -> None:
            found[number] = file.read()

        readers = [
            threading.Thread(target=read, args=(number, file), daemon=True)
            for number, file in ((1, self.stdout), (2, self.stderr))
            if file is not None
        ]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with suppress(BrokenPipeError):
                if input:
                    self.stdin.write(input)
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return found.get(1), found.get(2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        for file in (self.stdout, self.stderr, self.stdin):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()
        self.wait()


@functools.cache
def _forking(measures: str | None, seed: int, imports: tuple[str, ...]) -> socket.socket:
    """Start a process that forks, and return the socket that takes orders. It ends with this process.

    If it measures coverage, so do the forks. Those of one process iterate over sets in the same order.
    """
    environment = {**untraced_environment(), "PYTHONUTF8": "1", "PYTHONHASHSEED": str(seed)}
    if measures:
        environment[MEASURES] = measures
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.forks", str(theirs.fileno()), *imports],
            cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
    atexit.register(_end, ours, process, os.getpid())
    return ours


def _end(orders: socket.socket, process: subprocess.Popen[bytes], pid: int) -> None:
    if os.getpid() == pid:  # and not in a fork of this process
        orders.shutdown(socket.SHUT_RDWR)
        orders.close()
        process.wait()


class Order(NamedTuple):
    """What a fork runs, and how."""

    args: list[str]
    cwd: str
    env: dict[str, str]
    strict: bool


def serve(orders: socket.socket) -> Order | None:
    """Fork for each order, and report the exit status of each fork; return the order in a fork, None at the end."""
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for file, _ in poll.poll():
            if file in running:
                pid, status = running.pop(file)
                poll.unregister(file)
                os.close(file)
                answer(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(status)
                continue
            text, files, _, _ = socket.recv_fds(orders, 1_000_000, 4)
            if not text:
                return None
            if not (pid := os.fork()):
                os.setsid()
                for number in range(3):
                    os.dup2(files[number], number)
                answer(files[3], os.getpid())
                orders.detach()
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                return Order(*json.loads(text))
            for each in files[:3]:
                os.close(each)
            file = os.pidfd_open(pid)
            running[file] = (pid, files[3])
            poll.register(file, select.POLLIN)


def answer(status: int, number: int) -> None:
    """Send a number to the process that gave the order, unless it has closed the connection."""
    with suppress(BrokenPipeError):
        os.write(status, str(number).encode())


def become(order: Order) -> None:
    """Turn this fork into the process that was ordered."""
    errors = "surrogateescape"
    sys.stdin = open(0, errors=errors, closefd=False)
    if order.env.get("PYTHONUNBUFFERED"):
        unbuffered: Any = open(1, "wb", 0, closefd=False)
        sys.stdout = io.TextIOWrapper(unbuffered, errors=errors, write_through=True)
    else:
        sys.stdout = open(1, "w", errors=errors, closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.env)
    sys.path[:1] = [order.cwd, *filter(None, order.env.get("PYTHONPATH", "").split(os.pathsep))]
    if not order.strict:
        sys.warnoptions.clear()
        warnings.resetwarnings()
    module, *sys.argv[1:] = order.args
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Serve orders; in a fork, run what was ordered."""
    _, number, *imports = sys.argv
    for name in (*IMPORTED, *imports):
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=int(number)) as orders:
        order = serve(orders)
    if order:
        become(order)


if __name__ == "__main__":
    main()
