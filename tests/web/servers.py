"""Real servers for tests: each a process on a free port of the loopback interface, ended by its pid.

```python
with WebServer("granian", "tests.web.apps.small:app", tmp_path) as server:
    httpx.get(f"{server.url}/health")
    seconds = server.stop(signal.SIGTERM)
```
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.forks import Fork
from tests.parts import untraced_environment

ROOT = Path(__file__).parent.parent.parent

PATIENCE = 60.0
"""Seconds within which a server has to answer, on a busy machine."""

MEASURED_END = signal.SIGINT
"""The signal after which the interpreter ends by itself, so that what measures coverage writes it. After SIGTERM,
uvicorn shuts down in the same way, and then ends by that signal."""


MEASURED = ("uvicorn", "hypercorn")
"""The servers whose processes measure coverage: one of each `Kind.told`. The application is the same under all of them,
and to measure it takes half of a short process's time."""


class Kind(NamedTuple):
    """How one server is run.

    Attributes:
        command: its arguments after the interpreter; `{app}`, `{port}` and `{watched}` are filled in.
        told: whether it lets the application know of its end (`signal`) or cancels its tasks (`cancelled`).
        grace: seconds after which it ends whatever is open, as `command` sets it; infinite if it waits without limit.
        graceful: options, to append to `command`, that bound how long it waits for a reader that has stopped reading.
    """

    command: tuple[str, ...]
    told: str = "signal"
    grace: float = float("inf")
    graceful: tuple[str, ...] = ()


_UVICORN = (
    "-m", "uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning",
)  # fmt: skip
_HYPERCORN = ("-m", "hypercorn", "{app}", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1")
_GRANIAN = (
    "-m", "granian", "{app}", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}",
    "--log-level", "warning",
)  # fmt: skip
_GUNICORN = ("-m", "gunicorn", "{app}", "--bind", "127.0.0.1:{port}", "--log-level", "warning")
_IN_4_SECONDS = ("--timeout-graceful-shutdown", "4")

_HYPERCORN_ASYNCIO = (
    Kind((*_HYPERCORN, "--worker-class", "asyncio"), "cancelled", 1.0)
    if sys.version_info < (3, 12)
    else Kind((*_HYPERCORN, "--workers", "0"), "signal", 1.0)
)
"""Its supervised worker waits for all connections to close before it counts the time of `--graceful-timeout`, and from
Python 3.12 on asyncio's `Server.wait_closed` really waits for them."""

KINDS: dict[str, Kind] = {
    "uvicorn": Kind((*_UVICORN, "--http", "httptools", "--loop", "uvloop"), graceful=_IN_4_SECONDS),
    "uvicorn-h11": Kind((*_UVICORN, "--http", "h11", "--loop", "asyncio", "--ws", "wsproto"), graceful=_IN_4_SECONDS),
    "uvicorn-workers": Kind((*_UVICORN, "--workers", "2"), graceful=_IN_4_SECONDS),
    "uvicorn-reload": Kind((*_UVICORN, "--reload", "--reload-dir", "{watched}"), graceful=_IN_4_SECONDS),
    "hypercorn": _HYPERCORN_ASYNCIO,
    "hypercorn-uvloop": Kind((*_HYPERCORN, "--worker-class", "uvloop"), "cancelled", 1.0),
    "hypercorn-workers": Kind((*_HYPERCORN, "--worker-class", "uvloop", "--workers", "2"), "cancelled", 1.0),
    "hypercorn-trio": Kind((*_HYPERCORN, "--worker-class", "trio"), "cancelled", 1.0),
    "hypercorn-w0": Kind((*_HYPERCORN, "--workers", "0"), "signal", 1.0),
    "granian": Kind(_GRANIAN, graceful=("--workers-kill-timeout", "4")),
    "granian-reload": Kind((*_GRANIAN, "--reload", "--reload-paths", "{watched}")),
    "daphne": Kind(("-m", "daphne", "{app}", "--bind", "127.0.0.1", "--port", "{port}", "-v", "0"), "cancelled", 0.0),
    "gunicorn": Kind((*_GUNICORN, "--worker-class", "asgi", "--graceful-timeout", "4"), grace=4.0),
    "gunicorn-uvicorn": Kind(
        (*_GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", "--graceful-timeout", "4"), grace=4.0
    ),
}


@functools.cache
def _first_port() -> int:
    return 22_500 + os.getpid() * 37 % 9_500


_taken: set[int] = set()


def free_port() -> int:
    """A port that no other call of this process returned, below those that the system gives to clients."""
    for offset in range(9_500):
        port = 22_500 + (_first_port() - 22_500 + offset) % 9_500
        if port in _taken:
            continue
        _taken.add(port)
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise AssertionError("no port is free")


class WebServer:
    """One server process with one application.

    Args:
        kind: a key of `KINDS`.
        app: `module:attribute`; modules are found in `directory` and in the root of this repository.
        directory: for its log and modules of its own; `--reload` watches the directory `watched` in it.
        env: further environment variables.
        options: further arguments of its command line.
        port: a free one unless given.
        ready: the path that is asked until it answers, with whatever status.
    """

    def __init__(
        self,
        kind: str,
        app: str,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        port: int | None = None,
        ready: str = "/health",
    ) -> None:
        self.kind, self.spec, self.directory = kind, KINDS[kind], directory
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Fork | None = None
        self.watched = directory / "watched"  # not what the log is in: each line would have it reload
        self.watched.mkdir(exist_ok=True)
        values = {"app": app, "port": str(self.port), "watched": str(self.watched)}
        self._command = [*(part.format(**values) for part in self.spec.command), *options]
        paths = os.pathsep.join([str(directory), str(self.watched), str(ROOT)])
        inherited = dict(os.environ) if kind in MEASURED and app.startswith("tests.") else untraced_environment()
        self._env = {**inherited, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._ready = ready
        self._log = directory / f"{kind}-{self.port}.log"

    @property
    def log(self) -> str:
        """What the server has written to its standard output and error."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> Self:
        """Start it, and return once it answers.

        It is a fork of a process that has imported the library; workers that it starts may be new interpreters. It has
        its own session, so that a signal from a test goes to the process that an operator would signal, and what is
        left at the end can be killed as a group.
        """
        with self._log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            _, module, *arguments = self._command
            streams: dict[str, Any] = {"stdin": nothing, "stdout": log, "stderr": log}
            self.process = Fork(module, *arguments, env=self._env, strict=False, **streams)
        self.wait_ready()
        return self

    def wait_ready(self, within: float = PATIENCE) -> None:
        """Wait until it answers a request."""
        end = time.monotonic() + within
        while not self.answers():
            assert self.process is not None
            assert self.process.poll() is None, f"{self.kind} ended by itself:\n{self.log[-3000:]}"
            assert time.monotonic() < end, f"{self.kind} does not answer after {within} s:\n{self.log[-3000:]}"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it answers a request within two seconds."""
        request = f"GET {self._ready} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as connection:
            connection.settimeout(2)
            connection.sendall(request.encode())
            answer = b""
            while data := connection.recv(65536):  # to the end: what is left unread would be answered by a reset
                answer += data
            return answer.startswith(b"HTTP/1.")
        return False

    def send(self, number: int) -> None:
        """Send a signal to the process that was started, as an operator or a supervisor does."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, within: float = 15.0) -> int:
        """Wait for its end and return the exit code."""
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.kind} has not ended within {within} s:\n{self.log[-3000:]}") from None

    def stop(self, number: int = signal.SIGTERM, within: float = 15.0) -> float:
        """Send a signal, wait for the end, and return how many seconds that took."""
        began = time.monotonic()
        self.send(number)
        self.wait(within)
        return time.monotonic() - began

    def kill(self) -> None:
        """End it and its workers without asking. Idempotent."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(MEASURED_END)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.kill()
