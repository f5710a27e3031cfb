"""Where Redis is, and connections to it: the driver connects, authenticates and speaks TLS; nothing else of it is used.

A client or pool that the user passes in is read as a description and never touched: every connection is ours, with the
driver's own retries off (they would append an event twice), without its time limits (ours take their place), and on
protocol version 2.
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

from ._errors import NotSentError, not_sent

RedisUrl: TypeAlias = "str | Redis | ConnectionPool | RedisCluster"
"""A URL, or a client or pool of `redis.asyncio` that says where the server is and how to log in."""

Address: TypeAlias = tuple[str, int]

CONNECT_TIMEOUT: Final = 2.0
"""Seconds for connecting, TLS and logging in."""

_MANY = re.compile(r"(rediss?)\+(sentinel|cluster)://(?:([^@/?]*)@)?([^/?]+)(?:/([^?]*))?(?:\?(.*))?")
_NOT_OURS: Final = ("maint", "oss_cluster_maint", "orig_", "connection_pool", "max_connections", "connection_class")


class Connection(Protocol):
    """What is used of the driver's connections: its public methods, with types."""

    async def connect(self) -> None: ...

    async def send_packed_command(self, command: bytes, check_health: bool = ...) -> None: ...

    async def read_response(self, disable_decoding: bool = ..., timeout: float | None = ...) -> Any: ...

    async def disconnect(self, nowait: bool = ...) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """RedisUrl Redis is and how to log in.

    Attributes:
        kind: the connection class of the driver.
        options: what it is made with.
        seeds: addresses to ask where the masters are: sentinels or cluster nodes; none for a single server.
        service: the name that the sentinels know the master by; empty for a cluster.
        sentinel_options: as `options`, for the sentinels.
    """

    kind: type[Any]
    options: Mapping[str, Any] = field(repr=False)
    seeds: Sequence[Address] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_cluster(self) -> bool:
        """Whether the seeds are nodes of a cluster."""
        return bool(self.seeds) and not self.service

    def at(self, address: Address) -> Endpoint:
        """Return the source of one server."""
        return replace(self, options={**self.options, "host": address[0], "port": address[1]}, seeds=(), service="")

    def sentinel(self, address: Address) -> Endpoint:
        """Return the source of one sentinel."""
        options = {**self.sentinel_options, "host": address[0], "port": address[1]}
        return replace(self, options=options, seeds=(), service="")

    def connection(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """Return a connection that is not made yet."""
        return cast("Connection", self.kind(**self.options, **_pinned(timeout)))

    async def connect(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """Return a new connection, logged in.

        Raises:
            NotSentError: not reachable in time.
            RefusedError: it was reached and refuses the login or the database.
        """
        connection = self.connection(timeout)
        try:
            with anyio.fail_after(timeout):
                await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            await hang_up(connection)
            raise not_sent(f"cannot connect to {self}: {error}", error) from error
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
    """Insist on the settings that correctness rests on: the driver's defaults have changed before.

    Raises:
        UsageError: the driver, or a connection class of the user's, does something else.
    """
    retries = connection.retry.get_retries()  # type: ignore[attr-defined]
    found = {
        "retries": retries,
        "socket_timeout": getattr(connection, "socket_timeout", ...),
        "protocol": getattr(connection, "protocol", ...),
        "health_check_interval": getattr(connection, "health_check_interval", ...),
    }
    if found != {"retries": 0, "socket_timeout": None, "protocol": 2, "health_check_interval": 0}:
        raise UsageError(f"this version of redis-py does not do as it is told: {found}")


def endpoint_of(url: RedisUrl) -> Endpoint:
    """Return the source that a URL, client or pool describes.

    Raises:
        UsageError: it describes none, or has options that no connection takes.
    """
    given = f"not a Redis URL: {_without_credentials(url)}" if isinstance(url, str) else "no connection can be made"
    try:
        source = _described(url)
        for seed in source.seeds[:1]:
            source.at(seed).connection()
            source.sentinel(seed).connection()
        if not source.seeds:
            source.connection()
    except (TypeError, ValueError, RedisError) as error:
        raise UsageError(f"{given}: {str(error).partition('__init__() got an ')[2] or error}") from None
    return source


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
    raise UsageError(f"give a Redis URL, client or pool, not {type(url).__name__}")


def _pool_at(url: str) -> ConnectionPool:
    """Return what the driver reads from a URL; it takes a database that is no number for none."""
    scheme, _, path, *_ = urlsplit(url)
    if scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", path):
        raise ValueError(f"the database is a number, not {path[1:]!r}")
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
            raise ValueError(f"{host!r} is no host")
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
    kept = {name: value for name, value in options.items() if not name.startswith(_NOT_OURS) and name not in without}
    return {name: value for name, value in kept.items() if name not in _pinned(0)}


def _without_credentials(url: str) -> str:
    return re.sub(r"//.*@", "//...@", url.partition("?")[0])


def pack(*args: bytes) -> bytes:
    """Return a command as it goes over the connection."""
    return b"*%d\r\n%b" % (len(args), bulks(*args))


def bulks(*args: bytes) -> bytes:
    """Return arguments as they stand in a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


async def ask(connection: Connection, *commands: bytes) -> list[Any]:
    """Send packed commands, read their replies; an error reply is in its place. For a connection nobody else uses.

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
    """Return the coroutine that waits for the next reply, without limit, and returns it as bytes."""
    return connection.read_response(disable_decoding=True, timeout=math.inf)


class Replies:
    """Takes replies off a connection: all that came with one read of its socket together.

    The driver hands them out one by one, through four coroutines each: as much work as all that is then done with a
    message. What its parser in C has ready is therefore taken from there; another parser is asked again and again.

    Args:
        connection: a connection over which nothing is awaited.
    """

    def __init__(self, connection: Connection) -> None:
        self._wire = connection
        parser = getattr(getattr(connection, "_parser", None), "_reader", None)
        self._gets: Callable[[bool], Any] | None = getattr(parser, "gets", None)
        self._nothing = None if self._gets is None else self._gets(False)  # what an empty one returns

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
                    raise reply  # pragma: no cover - the server says so when one logs in
                replies.append(reply)
        return replies


def transmitter(connection: Connection) -> Callable[[bytes], None]:
    """Return what hands bytes to the transport at once: the driver's own way of sending waits, and so needs a task.

    Nothing bounds what the transport keeps for a server that does not read, except whoever calls.
    """
    return cast("Any", connection)._writer.write  # type: ignore[no-any-return]


async def hang_up(connection: Connection) -> None:
    """Close a connection at once, whatever is still to be sent. Never raises, never waits for the server."""
    writer = getattr(connection, "_writer", None)  # the driver offers no way to drop what a hung server does not take
    if writer is not None:
        with suppress(Exception):
            writer.transport.abort()
    with anyio.move_on_after(0.05, shield=True), suppress(Exception):
        await connection.disconnect(nowait=True)
