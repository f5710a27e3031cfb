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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
from redis.asyncio import (
    Connection as DriverConnection,
)
from redis.asyncio import ConnectionPool, Redis, RedisCluster
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


class Connection(Protocol):
    """The methods that are used of the driver's connections, with types."""

    async def connect(self) -> None: ...

    async def send_packed_command(self, command: bytes, check_health: bool = ...) -> None: ...

    async def read_response(self, disable_decoding: bool = ..., timeout: float | None = ...) -> Any: ...

    async def disconnect(self, nowait: bool = ...) -> None: ...


@dataclass(frozen=True)
class RedisEndpoint:
    """Where Redis is and how to log in.

    Attributes:
        kind: the driver's connection class.
        options: its arguments.
        connect_timeout: seconds for connecting, TLS and logging in.
        seeds: servers to ask for the masters: sentinels or cluster nodes; empty for a single server.
        service: the name that the sentinels know the master by; empty for a cluster.
        sentinel_kind: as `kind`, for the sentinels: they may have no TLS where the master has, or the reverse.
        sentinel_options: as `options`, for the sentinels.
        remap: maps an address that the cluster or the sentinels name to the one to connect to.
    """

    kind: type[Any]
    options: Mapping[str, Any] = field(repr=False)
    seeds: Sequence[Address] = ()
    service: str = ""
    sentinel_kind: type[Any] = DriverConnection
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    remap: Callable[[Address], Address] | None = None
    connect_timeout: float = CONNECT_TIMEOUT

    @property
    def database(self) -> int:
        """The number of the database that connections select."""
        return int(self.options.get("db") or 0)

    @property
    def is_cluster(self) -> bool:
        """Whether the seeds are nodes of a cluster."""
        return bool(self.seeds) and not self.service

    def at(self, address: Address) -> RedisEndpoint:
        """Return the endpoint of one server."""
        return replace(self, options={**self.options, "host": address[0], "port": address[1]}, seeds=(), service="")

    def sentinel(self, address: Address) -> RedisEndpoint:
        """Return the endpoint of one sentinel."""
        options = {**self.sentinel_options, "host": address[0], "port": address[1]}
        return replace(self, kind=self.sentinel_kind, options=options, seeds=(), service="")

    def located(self, host: str, port: int) -> Address:
        """Return the address to connect to, given one that the cluster or the sentinels name."""
        return (host, port) if self.remap is None else self.remap((host, port))

    def connection(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """Return a connection that is not connected yet."""
        return cast("Connection", self.kind(**self.options, **pinned(timeout)))

    async def connect(self, limit: float | None = None) -> Connection:
        """Return a new connection, logged in; `limit` is the number of seconds that it may take at most.

        Raises:
            NotSentError: not reachable in time.
            RefusedError: reached, but it refused the login or the database.
        """
        timeout = self.connect_timeout if limit is None else min(limit, self.connect_timeout)
        connection = self.connection(timeout)
        try:
            with anyio.fail_after(timeout):
                await connection.connect()
        except (RedisError, OSError, UnicodeError) as error:  # the last one: a host name that cannot be encoded
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
            return ",".join(map(format_address, self.seeds))
        address = self.options.get("host", "localhost"), self.options.get("port", 6379)
        return self.options.get("path") or format_address(address)


def format_address(address: Address) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def pinned(timeout: float) -> dict[str, Any]:
    """Return the arguments of every connection that correctness depends on."""
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
