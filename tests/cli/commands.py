"""Runs the command, in its own process or in this one, and collects its output line by line."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple
from unittest.mock import patch

from notify.cli import main
from tests.forks import Fork

PATIENCE = 90.0
"""Seconds to wait for any condition: far more than needed."""

NOTIFY = (sys.executable, "-W", "error", "-m", "notify")
"""The command as a shell starts it, which takes half a second: for tests of what the shell or the interpreter does."""


class Done(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY_", "PYTHONIO"))}
    return kept | {"PYTHONUTF8": "1"} | dict(more or {})


def notify(
    directory: Path, *arguments: str, stdin: str | bytes = b"", variables: Mapping[str, str] | None = None
) -> Done:
    """Run the command and wait for it."""
    with Fork("notify", *arguments, cwd=directory, env=environment(variables)) as process:
        out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, PATIENCE)
        return Done(process.wait(), out.decode(), err.decode())


def called(
    directory: Path, *arguments: str, stdin: str | bytes = b"", variables: Mapping[str, str] | None = None
) -> Done:
    """Run the command in this process, where nothing depends on the process: to start one takes half a second."""
    with (
        fed(stdin.encode() if isinstance(stdin, str) else stdin) as feed,
        TemporaryFile("w+", encoding="utf-8", newline="") as out,
        TemporaryFile("w+", encoding="utf-8", newline="") as err,
        patch.object(sys, "stdin", feed),
        patch.dict(os.environ, environment(variables), clear=True),
        chdir(directory),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            status = main([*arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        out.seek(0)
        err.seek(0)
        return Done(status, out.read(), err.read())


@contextmanager
def fed(data: bytes) -> Iterator[IO[bytes]]:
    """A pipe that yields this data. The reader may stop before the end."""
    ours, theirs = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), open(theirs, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with open(ours, "rb") as feed:
            yield feed
    finally:
        writer.join(PATIENCE)


class Running:
    """A running command, and the lines that it has written so far. With `in_fork`, no new interpreter is started."""

    def __init__(
        self, directory: Path, *arguments: str, variables: Mapping[str, str] | None = None, in_fork: bool = True
    ) -> None:
        self.process: Fork | subprocess.Popen[bytes]
        env = environment(variables)
        if in_fork:
            self.process = Fork("notify", *arguments, cwd=directory, env=env)
        else:
            pipe = subprocess.PIPE
            command = [*NOTIFY, *arguments]
            self.process = subprocess.Popen(command, cwd=directory, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        self.out: list[str] = []
        self.err: list[str] = []
        self._news: queue.Queue[None] = queue.Queue()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=self._read, args=each, daemon=True) for each in pipes]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[bytes], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.decode().rstrip("\n"))
            self._news.put(None)
        self._news.put(None)

    def wait_for(self, text: str, lines: list[str] | None = None, count: int = 1) -> str:
        """Wait until `count` lines (of standard output) contain this text, and return the last of them."""
        lines = self.out if lines is None else lines
        deadline = time.monotonic() + PATIENCE
        while len(found := [line for line in lines if text in line]) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.out} and {self.err}"
            assert self.process.poll() is None or any(each.is_alive() for each in self._threads), (self.out, self.err)
            try:
                self._news.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue
        return found[count - 1]

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def interrupt(self) -> Done:
        """Send SIGINT and wait."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> Done:
        """Wait until it has ended and its output has been read."""
        status = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return Done(status, "\n".join(self.out), "\n".join(self.err))

    def ids(self) -> list[str]:
        """The ids of the events it has printed."""
        return [line.partition(" ")[0] for line in self.out]


@contextmanager
def running(
    directory: Path, *arguments: str, variables: Mapping[str, str] | None = None, in_fork: bool = True
) -> Iterator[Running]:
    """Run the command in the background, and kill it at the end if it is still running."""
    command = Running(directory, *arguments, variables=variables, in_fork=in_fork)
    try:
        yield command
    finally:
        command.process.kill()
        command.wait()
        for stream in (command.process.stdin, command.process.stdout, command.process.stderr):
            assert stream is not None
            stream.close()
