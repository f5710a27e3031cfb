"""Private Redis servers on free ports of the loopback interface, in directories of their own, ended by their pids."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE = 20.0


_given: set[int] = set()


def free_port() -> int:
    """A free port that was not given before, below those of the other test servers, and so is its bus port.

    Both are below those that the system gives to clients: a server that was killed comes back to its port, which
    somebody else could have taken meanwhile.
    """
    for port in random.sample(range(10_000, 12_500), 2_500):
        if port in _given:
            continue
        _given.add(port)
        with suppress(OSError):
            for each in (port, port + 10_000):
                socket.create_server(("127.0.0.1", each)).close()
            return port
    raise AssertionError("no port is free")


def wait_for(check: Callable[[], object], what: str, within: float = PATIENCE) -> Any:
    """Wait for another process until a check is true, with growing pauses between checks, as `tests.parts.until`."""
    end = time.monotonic() + within
    pause = 0.01
    while True:
        try:
            if found := check():
                return found
        except redis.RedisError:
            pass
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.1)


class Server:
    """One redis-server (or sentinel) process."""

    def __init__(self, directory: Path, *options: str, port: int | None = None, sentinel: str | None = None) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.options = options
        self.sentinel = sentinel
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command = ["redis-server", *common, *self.options]
        if self.sentinel is not None:
            config = self.directory / "sentinel.conf"
            config.write_text(self.sentinel)
            command = ["redis-server", str(config), "--sentinel", *common]
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self.ask("PING"), f"the start of {command}")
        assert self.process.poll() is None, "somebody else has the port"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE, protocol=2)

    def ask(self, *command: str | bytes | float) -> Any:
        """Send one command over a connection of its own."""
        client = self.client()
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def contents(self, match: str = "*") -> Iterator[tuple[str, bytes]]:
        """Every key of database 0 that matches, and all that is in it."""
        client = self.client()
        try:
            for name in client.scan_iter(match, count=1000):
                kind = client.type(name).decode()
                yield name.decode(), repr(_READ[kind](client, name)).encode()
        finally:
            client.close()

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.thaw()
            self.kill()

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


def blocked_reads(server: Server) -> list[str]:
    """The ids of the connections that wait in a blocked XREAD."""
    lines = subprocess.run(
        ["redis-cli", "-p", str(server.port), "client", "list"], capture_output=True, check=True, text=True
    ).stdout.splitlines()
    clients = [dict(word.partition("=")[::2] for word in line.split()) for line in lines if line]
    return [client["id"] for client in clients if client["cmd"] == "xread" and "b" in client["flags"]]


def end_blocked_reads(server: Server) -> int:
    """End the connections that wait in a blocked XREAD."""
    return sum(server.ask("CLIENT", "KILL", "ID", each) for each in blocked_reads(server))


_READ: dict[str, Callable[[Any, bytes], Any]] = {
    "string": lambda client, name: client.get(name),
    "hash": lambda client, name: client.hgetall(name),
    "zset": lambda client, name: client.zrange(name, 0, -1),
    "stream": lambda client, name: client.xrange(name),
}


def traces(servers: Iterable[Server], user: str, match: str = "*") -> list[str]:
    """The names of the keys, of those that match, that name this user, or whose contents do."""
    name = re.compile(rf"(?:\b|1){re.escape(user)}(?![\w@-])")
    found = [(key, text.decode()) for server in servers for key, text in server.contents(match)]
    return [key for key, text in found if name.search(key) or name.search(text)]


@contextmanager
def directory() -> Iterator[Path]:
    path = Path(mkdtemp(prefix="notify-redis-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()


DURABLE = ("--appendonly", "yes", "--appendfsync", "no", "--save", "")
"""What was answered survives SIGKILL: with `everysec` the server puts off writing while its disk is slow to sync."""

VOLATILE = ("--appendonly", "no", "--save", "")


@contextmanager
def single(*options: str) -> Iterator[Server]:
    """One server with an append-only file."""
    with directory() as path:
        server = Server(path, *(options or DURABLE))
        with running(server):
            yield server


class Sentinels:
    """A master, a replica and three sentinels."""

    service = "main"

    def __init__(self, path: Path) -> None:
        self.master = Server(path / "a", *DURABLE, "--repl-diskless-sync-delay", "0")
        self.replica = Server(
            path / "b",
            *(*DURABLE, "--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0"),
        )
        watch = (
            f"sentinel monitor {self.service} 127.0.0.1 {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {self.service} 1000\n"
            f"sentinel failover-timeout {self.service} 5000\n"
        )
        self.sentinels = [Server(path / f"s{number}", sentinel=watch) for number in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            states = [each.ask("SENTINEL", "MASTER", self.service) for each in self.sentinels]
            return all(
                int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2 for state in map(plain, states)
            )

        wait_for(ready, "the sentinels know each other and the replica")
        wait_for(partial(follows, self.replica, self.master), "the replica follows")

    def master_port(self) -> int:
        state = plain(self.sentinels[0].ask("SENTINEL", "MASTER", self.service))
        return int(state["port"])


def plain(reply: Any) -> dict[str, str]:
    """The fields of a reply, whichever shape the driver gives it."""
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    texts = [each.decode() if isinstance(each, bytes) else str(each) for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def plain_info(server: Server, section: str) -> dict[str, str]:
    return plain(server.ask("INFO", section))


def follows(replica: Server, master: Server) -> bool:
    """Whether both servers report it: the master lists the replica as online later than the replica its link as up."""
    if plain_info(replica, "replication").get("master_link_status") != "up":
        return False
    online = re.compile(rf"\bport\W+{replica.port}\W+state\W+online\b")
    return any(map(online.search, plain_info(master, "replication").values()))


@contextmanager
def sentinels() -> Iterator[Sentinels]:
    with directory() as path:
        all_ = Sentinels(path)
        with running(all_.master, all_.replica, *all_.sentinels):
            all_.wait_until_ready()
            yield all_


class Cluster:
    """Three masters; with `replicas`, each has one, which takes over when the master is away."""

    def __init__(self, path: Path, *, replicas: bool = False) -> None:
        # Without replicas nobody can take over, and a busy machine must not make healthy masters look dead.
        timeout = "1500" if replicas else "5000"
        options = (*DURABLE, "--cluster-enabled", "yes", "--cluster-node-timeout", timeout)
        options += ("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0")
        self.masters = [Server(path / str(number), *options) for number in range(3)]
        self.replicas = [Server(path / f"r{number}", *options) for number in range(3 if replicas else 0)]

    @property
    def servers(self) -> list[Server]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.masters[0].port},127.0.0.1:{self.masters[1].port}"

    def form(self) -> None:
        bounds = [0, 5461, 10_923, 16_384]
        for number, each in enumerate(self.masters):
            each.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for number, each in enumerate(self.servers):
            each.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                each.ask("CLUSTER", "MEET", "127.0.0.1", self.masters[0].port)
        self._wait_for(b"cluster_state:ok", f"cluster_known_nodes:{len(self.servers)}".encode())
        for master, replica in zip(self.masters, self.replicas, strict=False):
            name = master.ask("CLUSTER", "MYID")
            wait_for(
                lambda name=name, replica=replica: replica.ask("CLUSTER", "REPLICATE", name), "it knows its master"
            )
            wait_for(partial(follows, replica, master), "the replica follows")
        self._wait_for(b"cluster_state:ok")

    def _wait_for(self, *lines: bytes) -> None:
        def formed() -> bool:
            return all(line in info for info in map(self._info, self.servers) for line in lines)

        wait_for(formed, "the cluster forms")

    @staticmethod
    def _info(server: Server) -> bytes:
        info: bytes = server.ask("CLUSTER", "INFO")  # two words: the driver has no reader for the first one alone
        return info


@contextmanager
def cluster(*, replicas: bool = False) -> Iterator[Cluster]:
    with directory() as path:
        all_ = Cluster(path, replicas=replicas)
        with running(*all_.servers):
            all_.form()
            yield all_
