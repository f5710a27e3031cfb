"""What tests may do to each backend: kill, freeze, wipe, take back to an older state, cut what listens."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

from tests.servers import postgres, sqlite
from tests.servers import redis as redis_servers


class Backend(ABC):
    """One backend at work.

    Attributes:
        name: of the column in the matrix.
        url: for `open_store`.
        options: of every store here: what listens is to notice within a second that it does not hear.
    """

    name: ClassVar[str]
    url: str
    options: ClassVar[dict[str, Any]] = {}

    def fresh_space(self) -> str:
        """Return a name that no other test uses."""
        return f"t_{secrets.token_hex(5)}"

    @abstractmethod
    def connections(self) -> int:
        """How many connections there are, this question's own not counted."""

    @abstractmethod
    def heal(self) -> None:
        """Whatever a test has done: be there again."""


class SQLite(Backend):
    """Files in a directory."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"sqlite://{directory}"

    def file(self, space: str) -> Path:
        return self.directory / f"{space}.db"

    def wipe(self, space: str) -> None:
        """Delete the file under everybody's feet."""
        sqlite.remove(self.file(space))

    def connections(self) -> int:
        return 0

    def heal(self) -> None:
        """Nothing to do: each test has a file of its own."""


class Servers(Backend):
    """A backend with servers, which can all be killed and frozen at once."""

    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers

    def kill(self) -> None:
        """SIGKILL all of them, as a power cut would."""
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        for server in self.servers:
            self.start_one(server)

    def start_one(self, server: Any) -> None:
        server.start()

    def freeze(self) -> None:
        """SIGSTOP all of them."""
        for server in self.servers:
            server.freeze()

    def thaw(self) -> None:
        """SIGCONT those that are up."""
        for server in self.servers:
            if self.is_up(server):
                server.thaw()

    def heal(self) -> None:
        self.thaw()
        for server in self.servers:
            if not self.is_up(server):
                self.start_one(server)

    @abstractmethod
    def is_up(self, server: Any) -> bool:
        """Whether this server's process is there."""

    @abstractmethod
    def snapshot(self) -> None:
        """Keep the present state, as a replica that lags or a backup does."""

    @abstractmethod
    def rewind(self) -> None:
        """While all are down: replace what is there by what was kept."""

    @abstractmethod
    def cut_wake(self) -> None:
        """End every connection that listens, and no other."""


class Redis(Servers):
    """A single server with an append-only file."""

    name = "redis"
    options: ClassVar[dict[str, Any]] = {"probe_interval": 0.5}
    servers: list[redis_servers.Server]

    def __init__(self, server: redis_servers.Server) -> None:
        super().__init__([server])
        self.url = server.url

    def is_up(self, server: redis_servers.Server) -> bool:
        return server.process is not None and server.process.poll() is None

    def wipe(self) -> None:
        """While the servers are down: delete all data; a node of a cluster remembers its place."""
        for server in self.servers:
            shutil.rmtree(server.directory / "appendonlydir")

    def snapshot(self) -> None:
        for server in self.servers:
            shutil.copytree(server.directory / "appendonlydir", server.directory / "kept", dirs_exist_ok=True)

    def rewind(self) -> None:
        self.wipe()
        for server in self.servers:
            (server.directory / "kept").rename(server.directory / "appendonlydir")

    def cut_wake(self) -> None:
        for server in self.servers:
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")

    def connections(self) -> int:
        return sum(int(redis_servers.plain_info(each, "clients")["connected_clients"]) - 1 for each in self.servers)


class RedisCluster(Redis):
    """Three masters."""

    name = "redis cluster"

    def __init__(self, cluster: redis_servers.Cluster) -> None:
        Servers.__init__(self, [*cluster.masters])
        self.cluster = cluster
        self.url = cluster.url

    def start(self) -> None:
        super().start()
        redis_servers.wait_for(self._is_formed, "the cluster forms again")

    def heal(self) -> None:
        super().heal()
        redis_servers.wait_for(self._is_formed, "the cluster forms again")

    def _is_formed(self) -> bool:
        return all(b"cluster_state:ok" in self.cluster._info(each) for each in self.servers)


class RedisSentinels(Redis):
    """A master and a replica, watched by three sentinels. `servers` are the two that hold data.

    For about ten seconds after a failover the old master, if it lives, knows nothing of it. Two masters that write one
    log may give one id to two events, so operators fence the old one: `fence`.
    """

    name = "redis sentinel"
    _fence: tuple[str, ...] = ()

    def __init__(self, sentinels: redis_servers.Sentinels) -> None:
        Servers.__init__(self, [sentinels.master, sentinels.replica])
        self.sentinels = sentinels
        self.url = sentinels.url

    @property
    def master(self) -> redis_servers.Server:
        """Who the sentinels say is the master."""
        port = self.sentinels.master_port()
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> redis_servers.Server:
        """The other one."""
        port = self.sentinels.master_port()
        return next(server for server in self.servers if server.port != port)

    def wait_until_in_step(self) -> None:
        """Wait until the replica has all that the master has."""

        def in_step() -> bool:
            ours, theirs = (redis_servers.plain_info(each, "replication") for each in (self.master, self.replica))
            return ours["master_repl_offset"] == theirs["slave_repl_offset"]

        redis_servers.wait_for(in_step, "the replica is in step")

    def connections(self) -> int:
        return 0  # those of the sentinels and of the replica are among them

    def fence(self) -> None:
        """From now on a master without its replica accepts nothing."""
        self._fence = ("--min-replicas-to-write", "1")
        for server in self.servers:
            server.ask("CONFIG", "SET", "min-replicas-to-write", "1")

    def start_one(self, server: redis_servers.Server) -> None:
        """Start the master, or a replica of the master, whichever the sentinels have made of it."""
        port = self.sentinels.master_port()
        alone = (*redis_servers.DURABLE, "--repl-diskless-sync-delay", "0", *self._fence)
        server.options = alone if server.port == port else (*alone, "--replicaof", "127.0.0.1", str(port))
        server.start()

    def heal(self) -> None:
        super().heal()
        redis_servers.wait_for(self._follows, "the replica follows the master", 60.0)

    def _follows(self) -> bool:
        for sentinel in self.sentinels.sentinels:
            state = redis_servers.plain(sentinel.ask("SENTINEL", "MASTER", self.sentinels.service))
            if state["flags"] != "master" or int(state["port"]) != self.master.port:
                return False
        role = redis_servers.plain_info(self.master, "replication")["role"]
        return role == "master" and redis_servers.follows(self.replica, self.master)


class ByXread(Redis):
    """As its other base; processes are told by wake streams."""

    options: ClassVar[dict[str, Any]] = {"probe_interval": 0.5, "wake": "xread"}

    def cut_wake(self) -> None:
        for server in self.servers:
            redis_servers.end_blocked_reads(server)


class RedisByXread(ByXread):
    """A single server."""

    name = "redis xread"


class RedisClusterByXread(ByXread, RedisCluster):
    """Three masters."""

    name = "redis cluster xread"


class RedisSentinelsByXread(ByXread, RedisSentinels):
    """A master and a replica, watched by three sentinels."""

    name = "redis sentinel xread"


class Postgres(Servers):
    """One server."""

    name = "postgres"
    options: ClassVar[dict[str, Any]] = {"probe_interval": 0.5}
    servers: list[postgres.Server]

    def __init__(self, server: postgres.Server) -> None:
        super().__init__([server])
        self.server = server
        self.url = server.dsn

    def is_up(self, server: postgres.Server) -> bool:
        return server._process is not None and server._process.poll() is None

    def snapshot(self) -> None:
        kept = self.server.directory / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        where = ("-h", "127.0.0.1", "-p", self.server.port, "-U", postgres.USER)
        self.server.run("pg_basebackup", "-D", kept, *where, "-X", "stream", "-c", "fast", "--no-sync")

    def rewind(self) -> None:
        shutil.rmtree(self.server.data)
        (self.server.directory / "kept").rename(self.server.data)

    def sql(self, query: str) -> str:
        """Run a query as an administrator does."""
        command = [str(postgres.BIN / "psql"), "-XAtq", "-d", self.url, "-c", query]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def cut_wake(self) -> None:
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'")

    def connections(self) -> int:
        clients = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return int(self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {clients}"))


class Fleet:
    """The backends of a run, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Backend, ExitStack]] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        with ExitStack() as stacks:  # all are ended, even if one of them cannot be
            while self._running:
                stacks.push(self._running.popitem()[1][1])

    def __getitem__(self, name: str) -> Backend:
        """Return a backend by the name of its column, in good health."""
        if name not in self._running:
            stack = ExitStack()
            self._running[name] = (stack.enter_context(_STARTERS[name]()), stack)
        return self._running[name][0]

    def heal(self) -> None:
        """Undo what tests may have left, and end a backend for which that fails: the next test gets a new one."""
        failures = []
        for name, (backend, _) in list(self._running.items()):
            try:
                backend.heal()
            except Exception as error:
                failures.append(error)
                try:
                    self._end(name)
                except Exception as another:
                    failures.append(another)
        if failures:
            raise ExceptionGroup("backends that could not be healed", failures)

    def _end(self, name: str) -> None:
        _, stack = self._running.pop(name)
        stack.close()


@contextmanager
def _sqlite() -> Iterator[Backend]:
    directory = Path(mkdtemp(prefix="notify-sqlite-"))
    try:
        yield SQLite(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _redis(kind: type[Redis] = Redis) -> Iterator[Backend]:
    with redis_servers.single() as server:
        yield kind(server)


@contextmanager
def _cluster(kind: type[RedisCluster] = RedisCluster) -> Iterator[Backend]:
    with redis_servers.cluster() as cluster:
        yield kind(cluster)


@contextmanager
def _sentinels(kind: type[RedisSentinels] = RedisSentinels) -> Iterator[Backend]:
    with redis_servers.sentinels() as sentinels:
        yield kind(sentinels)


@contextmanager
def _postgres() -> Iterator[Backend]:
    with postgres.running() as server:
        yield Postgres(server)


_STARTERS: dict[str, Callable[[], AbstractContextManager[Backend]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
    "redis cluster": _cluster,
    "redis sentinel": _sentinels,
    "redis xread": partial(_redis, RedisByXread),
    "redis cluster xread": partial(_cluster, RedisClusterByXread),
    "redis sentinel xread": partial(_sentinels, RedisSentinelsByXread),
    "postgres": _postgres,
}
