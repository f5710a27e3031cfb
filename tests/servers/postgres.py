"""Private PostgreSQL servers and PgBouncers: real ones, on free ports, in directories of their own."""

from __future__ import annotations

import atexit
import functools
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=Path())
USER = "postgres"
PATIENCE = 30.0

# These servers have no TLS. asyncpg would ask for it first and, cancelled at that very moment, leave an error behind
# that nobody retrieves, which fails whatever test is running.
os.environ["PGSSLMODE"] = "disable"

# Servers are killed here, but no machine loses its power: what was written is there without a sync, and no page is
# torn. Nothing is vacuumed automatically: when that happens is a matter of chance, and each schema adds to its cost.
# A killed server leaves its dynamic shared memory behind: here as files in its own directory, which is removed.
CONFIG = """
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
autovacuum = off
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
dynamic_shared_memory_type = mmap
log_min_messages = warning
"""

AS_DEPLOYED = """
fsync = on
full_page_writes = on
autovacuum = on
autovacuum_naptime = 10s
"""
"""What benchmarks add to that: the server does what it does where nothing may be lost."""


def unprivileged() -> dict[str, Any]:
    """Arguments that make a child process run as somebody else than root, which PostgreSQL refuses."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}


def free_port() -> int:
    """A free port, below those of the other test servers and those that the system gives to clients.

    A server that was killed comes back to its port. From the range for clients it could be taken meanwhile, by any
    connection of the machine: even by one to that port, which TCP then connects with itself.
    """
    while True:
        port = random.randrange(12_500, 20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(check: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a bound."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.01)


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be reaped has."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def run(program: str, *arguments: object, cwd: Path) -> None:
    """Run a program as the user that the servers run as."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **unprivileged())
    assert done.returncode == 0, done.stderr


@functools.cache
def empty() -> Path:
    """The data directory of an empty server: to copy it is quicker than to make another. Gone with this process."""
    path = Path(tempfile.mkdtemp(prefix="pg-empty-"))
    atexit.register(remove_own, path, os.getpid())
    if os.geteuid() == 0:
        shutil.chown(path, USER, USER)
    data = path / "data"
    run(str(BIN / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
        cwd=path)  # fmt: skip
    return data


def remove_own(path: Path, pid: int) -> None:
    """Remove a directory, unless this is a fork of the process that made it."""
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)


class Server:
    """One PostgreSQL server; started and stopped by process id, never by name.

    Args:
        directory: owned by whoever the server runs as.
        config: more lines of `postgresql.conf`.
        primary: of whom this is to be a standby, by asynchronous replication.
    """

    def __init__(self, directory: Path, config: str = "", *, primary: Server | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if primary is None:
            run("cp", "-R", empty(), self.data, cwd=directory)
        else:
            self.run("pg_basebackup", "-D", self.data, "-R", "-c", "fast", "--no-sync", "-d", primary.dsn)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"{CONFIG}\nport = {self.port}\nunix_socket_directories = '{directory}'\n{config}\n")

    @property
    def dsn(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        return [self.pid, *children(self.pid)]

    def run(self, program: str, *arguments: object) -> None:
        """Run one of the programs that come with the server."""
        run(str(BIN / program), *arguments, cwd=self.directory)

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            command = [str(BIN / "postgres"), "-D", str(self.data)]
            self._process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log, **unprivileged())
        wait_until(self.is_ready, "the server to start")

    def is_ready(self) -> bool:
        assert self._process is None or self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
        command = [str(BIN / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        return accepts(self.port) and subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """Stop it as an operator would; idempotent."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs the data any more
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """End every process of it at once, as a power cut would."""
        pids = self.pids
        self._signal(signal.SIGKILL, pids)
        assert self._process is not None
        self._process.wait(PATIENCE)
        wait_until(lambda: all(map(is_gone, pids)), "the server's processes to end")
        self._process = None
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop every process of it in its tracks; connections stay open."""
        self._signal(signal.SIGSTOP, self.pids)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, self.pids)

    @staticmethod
    def _signal(number: signal.Signals, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Bouncer:
    """A PgBouncer in transaction mode in front of a server."""

    def __init__(self, directory: Path, server: Server, pool_size: int = 8) -> None:
        self.port = free_port()
        config = directory / f"pgbouncer-{self.port}.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 500\n"
        )
        with (directory / "pgbouncer.log").open("ab") as log:
            command = ["/usr/sbin/pgbouncer", str(config)]
            self._process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, **unprivileged())
        wait_until(lambda: accepts(self.port), "PgBouncer to start")

    @property
    def dsn(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)


@contextmanager
def directory() -> Iterator[Path]:
    """A temporary directory that the server may write to."""
    path = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(path, USER, USER)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(config: str = "", *, primary: Server | None = None) -> Iterator[Server]:
    """A server of one's own, to be killed and frozen at will."""
    with directory() as path:
        server = Server(path, config, primary=primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def small_disk(server: Server, size: str = "24m") -> Iterator[Path]:
    """A file system that is soon full and that the server may write to. Only root can mount one."""
    path = server.directory / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        (path / "tablespace").mkdir()
        shutil.chown(path / "tablespace", USER, USER)
        yield path / "tablespace"
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def bouncing(server: Server, pool_size: int = 8) -> Iterator[Bouncer]:
    bouncer = Bouncer(server.directory, server, pool_size)
    try:
        yield bouncer
    finally:
        bouncer.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server that tests share which leave it as it is; each takes a schema of its own."""
    with running() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A server for one test alone."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: Server) -> Iterator[Bouncer]:
    with bouncing(postgres) as bouncer:
        yield bouncer


def fresh_schema() -> str:
    """The name of a schema that does not exist."""
    return f"t_{secrets.token_hex(6)}"
