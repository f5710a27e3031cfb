"""Scripts in processes of their own, and what they left in a store."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from notify import Event, open_store
from tests.forks import Fork

ROOT = Path(__file__).parents[2]

PATIENCE = 50.0
"""Seconds to wait for any condition: far more than needed."""

MAY_FORK = "import warnings\nwarnings.filterwarnings('ignore', '.*use of fork', DeprecationWarning)\n"
"""Warnings are errors, except the one of Python 3.12 and later about forking beside threads, which is tested here."""

_numbers = itertools.count()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def script(directory: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, in a fork, which saves the half second that an interpreter takes to start."""
    name = f"script{next(_numbers)}"
    (directory / f"{name}.py").write_text(MAY_FORK + textwrap.dedent(source), encoding="utf-8")
    with Fork(name, cwd=directory, env=environment(), text=True) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def output_of(directory: Path, source: str) -> list[str]:
    """Run a script that has to succeed without a word on standard error, and return its lines."""
    done = script(directory, source)
    noise = [line for line in done.stderr.splitlines() if "with SQLite 3" not in line]  # a hint, on an old system
    assert (done.returncode, noise) == (0, []), done
    return done.stdout.splitlines()


@contextmanager
def background(directory: Path, *command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and stop it at the end if it still runs."""
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        command, cwd=directory, env=environment(**variables), stdout=log, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    with log, ended(process):
        yield process


@contextmanager
def background_module(directory: Path, module: str, *arguments: str) -> Iterator[Fork]:
    """Run a module with arguments in a fork, and stop it at the end if it still runs."""
    with (directory / "log").open("w") as log, Path(os.devnull).open() as nothing:
        process = Fork(
            module, *arguments, cwd=directory, env=environment(), stdin=nothing, stdout=log, stderr=log, strict=False
        )
        with ended(process):
            yield process


@contextmanager
def ended(process: subprocess.Popen[str] | Fork) -> Iterator[None]:
    """At the end, kill the process and those that it has started, if it still runs."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)


def stop(process: subprocess.Popen[str] | Fork, number: int = signal.SIGTERM) -> int:
    """Send a signal, wait for the end, and return the exit status."""
    process.send_signal(number)
    return process.wait(PATIENCE)


def wait_until(condition: Callable[[], bool], what: str, directory: Path | None = None) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            log = (directory / "log").read_text() if directory is not None else ""
            raise AssertionError(f"waited in vain for {what}\n{log}")
        time.sleep(0.05)


def events(file: Path, user: str = "alice") -> list[Event]:
    """Return the log of a user."""

    async def read() -> list[Event]:
        store = open_store(f"sqlite:///{file}")
        try:
            return list((await store.read(user, "0", 10_000)).events)
        finally:
            await store.aclose()

    return asyncio.run(read()) if file.exists() else []
