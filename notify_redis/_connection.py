"""Where Redis is, and connections to it: the driver connects, authenticates and speaks TLS; nothing else of it is used.

A client or pool that the caller passes in is read as a description, and neither used nor closed. Every connection is
the library's own, with its settings pinned, because the driver's defaults have changed before (`check_settings`):

- No automatic retries: the driver would repeat a push whose reply was lost, and so append an event twice.
- No socket timeout and no health check: a timeout in the middle of a reply leaves the rest of it for the next command.
  Requests have timeouts of their own (`_pipeline`), and the pub/sub connection has probes (`_pubsub`).
- Protocol version 2, and replies as bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Final, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

import anyio
from redis.asyncio import (
    Connection as DriverConnection,
)
from redis.asyncio import (
    ConnectionPool,
    Redis,
    RedisCluster,
    SentinelConnectionPool,
    SentinelManagedSSLConnection,
    SSLConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from notify.errors import UsageError

from ._errors import NotSentError, not_sent, phrase

RedisUrl: TypeAlias = "str | Redis | ConnectionPool | RedisCluster"
"""A URL, or a client or pool of `redis.asyncio`, of which the address and the login are read."""

Address: TypeAlias = tuple[str, int]

CONNECT_TIMEOUT: Final = 2.0
"""Seconds for connecting, TLS and logging in."""

_MANY = re.compile(r"(rediss?)\+(sentinel|cluster)://(?:([^@/?]*)@)?([^/?]+)(?:/([^?]*))?(?:\?(.*))?")
_DROPPED: Final = ("maint", "oss_cluster_maint", "orig_", "connection_pool", "max_connections", "connection_class")


class Connection(Protocol):
    """The methods that are used of the driver's connections, with types."""

    async def connect(self) -> None: ...

    async def send_packed_command(self, command: bytes, check_health: bool = ...) -> None: ...

    async def read_response(self, disable_decoding: bool = ..., timeout: float | None = ...) -> Any: ...

    async def disconnect(self, nowait: bool = ...) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """Where Redis is and how to log in.

    Attributes:
        kind: the driver's connection class.
        options: its arguments.
        seeds: servers to ask for the masters: sentinels or cluster nodes; empty for a single server.
        service: the name that the sentinels know the master by; empty for a cluster.
        sentinel_options: as `options`, for the sentinels.
    """

    kind: type[Any]
    options: Mapping[str, Any] = field(repr=False)
    seeds: Sequence[Address] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def database(self) -> int:
        """The number of the database that connections select."""
        return int(self.options.get("db") or 0)

    @property
    def is_cluster(self) -> bool:
        """Whether the seeds are nodes of a cluster."""
        return bool(self.seeds) and not self.service

    def at(self, address: Address) -> Endpoint:
        """Return the endpoint of one server."""
        return replace(self, options={**self.options, "host": address[0], "port": address[1]}, seeds=(), service="")

    def sentinel(self, address: Address) -> Endpoint:
        """Return the endpoint of one sentinel."""
        options = {**self.sentinel_options, "host": address[0], "port": address[1]}
        return replace(self, options=options, seeds=(), service="")

    def connection(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """Return a connection that is not connected yet."""
        return cast("Connection", self.kind(**self.options, **_pinned(timeout)))

    async def connect(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """Return a new connection, logged in.

        Raises:
            NotSentError: not reachable in time.
            RefusedError: reached, but it refused the login or the database.
        """
        connection = self.connection(timeout)
        try:
            with anyio.fail_after(timeout):
                await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            await hang_up(connection)
            raise not_sent(f"cannot connect to {self}: {phrase(error)}", error) from error
        except BaseException:
            await hang_up(connection)
            raise
        try:
            check_settings(connection)
        except UsageError as error:
            await hang_up(connection)
            raise NotSentError(str(error)) from error
        return connection

    def __str__(self) -> str:
        """Return the address, without credentials."""
        if self.seeds:
            return ",".join(f"{host}:{port}" for host, port in self.seeds)
        path = self.options.get("path")
        return path or f"{self.options.get('host', 'localhost')}:{self.options.get('port', 6379)}"


def _pinned(timeout: float) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        "protocol": 2,
        "decode_responses": False,
    }


def check_settings(connection: Connection) -> None:
    """Check that a connection has the settings that correctness depends on.

    Raises:
        UsageError: the driver, or a connection class of the caller's, has set something else.
    """
    retries = connection.retry.get_retries()  # type: ignore[attr-defined]
    found = {
        "retries": retries,
        "socket_timeout": getattr(connection, "socket_timeout", ...),
        "protocol": getattr(connection, "protocol", ...),
        "health_check_interval": getattr(connection, "health_check_interval", ...),
    }
    if found != {"retries": 0, "socket_timeout": None, "protocol": 2, "health_check_interval": 0}:
        raise UsageError(f"redis-py, or the connection class given, ignores settings that notify_redis needs: {found}")


def endpoint_of(url: RedisUrl) -> Endpoint:
    """Return the endpoint that a URL, client or pool describes.

    Raises:
        UsageError: not a Redis URL, client or pool, or with an option that the driver's connections do not have.
    """
    given = f"not a Redis URL: {_without_credentials(url)}" if isinstance(url, str) else "unusable client or pool"
    try:
        endpoint = _described(url)
        for seed in endpoint.seeds[:1]:
            endpoint.at(seed).connection()
            endpoint.sentinel(seed).connection()
        if not endpoint.seeds:
            endpoint.connection()
    except (TypeError, ValueError, RedisError) as error:
        raise UsageError(f"{given}: {str(error).partition('__init__() got an ')[2] or error}") from None
    return endpoint


def _described(url: RedisUrl) -> Endpoint:
    if isinstance(url, str):
        many = _MANY.fullmatch(url)
        return _of_many(*many.groups()) if many else _of_pool(_pool_at(url))
    if isinstance(url, RedisCluster):
        given = cast("Any", url).get_connection_kwargs()
        kind = (
            SSLConnection
            if issubclass(given.get("connection_class", DriverConnection), SSLConnection)
            else DriverConnection
        )
        known = {name for each in kind.__mro__ for name in signature(each).parameters}  # others are the client's
        options = {name: value for name, value in given.items() if name in known}
        nodes = cast("Any", url).nodes_manager.startup_nodes.values()
        seeds = [(str(node.host), int(node.port)) for node in nodes]
        return Endpoint(kind, _cleaned(options, "host", "port"), seeds)
    if isinstance(url, Redis):
        return _of_pool(url.connection_pool)
    if isinstance(url, ConnectionPool):
        return _of_pool(url)
    raise UsageError(f"url must be a Redis URL, client or pool, got {type(url).__name__}")


def _pool_at(url: str) -> ConnectionPool:
    """Return what the driver reads from a URL; it would ignore a database that is not a number."""
    scheme, _, path, *_ = urlsplit(url)
    if scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", path):
        raise ValueError(f"the database must be a number, got {path[1:]!r}")
    return ConnectionPool.from_url(url)


def _of_pool(pool: Any) -> Endpoint:
    kind, options = pool.connection_class, pool.connection_kwargs
    if not isinstance(pool, SentinelConnectionPool):
        return Endpoint(kind, _cleaned(options))
    sentinels = [client.connection_pool for client in pool.sentinel_manager.sentinels]
    seeds = [(str(each.connection_kwargs["host"]), int(each.connection_kwargs["port"])) for each in sentinels]
    plain = SSLConnection if issubclass(kind, SentinelManagedSSLConnection) else DriverConnection
    service = str(pool.service_name)
    return Endpoint(plain, _cleaned(options), seeds, service, _cleaned(sentinels[0].connection_kwargs))


def _of_many(
    scheme: str, topology: str, login: str | None, hosts: str, path: str | None, query: str | None
) -> Endpoint:
    """Read `redis+sentinel://user:password@host:port,host:port/service/db` or `redis+cluster://host:port,host:port`."""
    at = f"{login}@" if login else ""
    service, _, db = (path or "").partition("/")
    described = _pool_at(f"{scheme}://{at}localhost/{db}?{query or ''}")
    options = _cleaned(described.connection_kwargs, "host", "port")
    default = 26_379 if topology == "sentinel" else 6379
    seeds = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname:
            raise ValueError(f"{host!r} is not a host")
        seeds.append((parts.hostname, parts.port or default))
    if topology == "cluster":
        if path or options.get("db"):
            raise ValueError("a cluster has no databases")
        return Endpoint(described.connection_class, options, seeds)
    if not service:
        raise ValueError("name the service that the sentinels watch: redis+sentinel://host:port/service/db")
    words = ("username", "password")
    sentinel_options = {word: options.pop(f"sentinel_{word}") for word in words if f"sentinel_{word}" in options}
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Endpoint(described.connection_class, options, seeds, service, {**tls, **sentinel_options})


def _cleaned(options: Mapping[str, Any], *without: str) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if not name.startswith(_DROPPED) and name not in without}
    return {name: value for name, value in kept.items() if name not in _pinned(0)}


def _without_credentials(url: str) -> str:
    return re.sub(r"//.*@", "//...@", url.partition("?")[0])


def pack(*args: bytes) -> bytes:
    """Return a command, encoded."""
    return b"*%d\r\n%b" % (len(args), bulks(*args))


def bulks(*args: bytes) -> bytes:
    """Return arguments of a command, encoded as bulk strings."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


async def ask(connection: Connection, *commands: bytes) -> list[Any]:
    """Send packed commands and read their replies; an error reply is in its place. The caller must be the only user.

    Raises:
        RedisError, OSError: the connection broke.
    """
    await connection.send_packed_command(b"".join(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await read(connection))
        except ResponseError as error:
            replies.append(error)
    return replies


def read(connection: Connection) -> Any:
    """Return the coroutine that waits for the next reply, without a timeout, and returns it as bytes."""
    return connection.read_response(disable_decoding=True, timeout=math.inf)


class Replies:
    """Takes replies off a connection: all that came with one read of its socket together.

    The driver hands them out one by one, through four coroutines each, which took as long as all further work on a
    message. So replies that its C parser has parsed are taken from the parser; from any other parser replies are taken
    one by one.

    Args:
        connection: a connection that is read by nothing else.
    """

    def __init__(self, connection: Connection) -> None:
        self._wire = connection
        parser = getattr(getattr(connection, "_parser", None), "_reader", None)
        self._gets: Callable[[bool], Any] | None = getattr(parser, "gets", None)
        self._nothing = None if self._gets is None else self._gets(False)  # what an empty parser returns

    async def take(self) -> list[Any]:
        """Wait for replies and return them; one that is an error is a ResponseError in its place.

        Raises:
            RedisError, OSError: the connection broke.
        """
        try:
            replies = [await read(self._wire)]
        except ResponseError as error:
            replies = [error]
        if self._gets is not None:
            while (reply := self._gets(False)) is not self._nothing:
                if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                    raise reply  # pragma: no cover - servers send these during login only
                replies.append(reply)
        return replies


def transmitter(connection: Connection) -> Callable[[bytes], None]:
    """Return the function that hands bytes to the transport at once; the driver's own waits, so it needs a task.

    The transport's buffer grows while a server does not read. Callers bound it: their requests time out, and then the
    connection is dropped together with the buffer.
    """
    return cast("Any", connection)._writer.write  # type: ignore[no-any-return]


async def hang_up(connection: Connection) -> None:
    """Close a connection at once and discard what was not sent. Never raises, and does not wait for the server."""
    writer = getattr(connection, "_writer", None)  # the driver cannot discard what a frozen server does not read
    if writer is not None:
        with suppress(Exception):
            writer.transport.abort()
    with anyio.move_on_after(0.05, shield=True), suppress(Exception):
        await connection.disconnect(nowait=True)
