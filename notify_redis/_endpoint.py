"""Where Redis is, read from what the caller has given: a URL, or a client or pool of `redis.asyncio`.

A client is a description: its address, login, TLS and the other settings of its connections are used; it is neither
used itself nor closed. What it says about its calls has no effect, because the library makes its calls itself:
`socket_timeout`, `retry`, `retry_on_error`, `retry_on_timeout`, `health_check_interval`, `protocol`,
`decode_responses`, `max_connections`, `single_connection_client`, and the settings of a cluster client for reads and
retries. The same settings in a URL have no effect either, so that a URL can be shared with other programs. What the
library cannot honour otherwise is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from typing import Any, Final
from urllib.parse import quote, urlencode

from redis import Redis as SyncRedis
from redis import RedisCluster as SyncCluster
from redis.asyncio import Connection as DriverConnection
from redis.asyncio import (
    ConnectionPool,
    Redis,
    RedisCluster,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedSSLConnection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import RedisError

from notify.adapters import StoreUrl
from notify.errors import UsageError

from ._connection import CONNECT_TIMEOUT, Address, RedisEndpoint, RedisUrl, pinned

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_DROPPED: Final = (
    "maint",
    "himport",
    "oss_cluster_maint",
    "orig_",
    "connection_pool",
    "max_connections",
    "connection_class",
)
_OBJECTS: Final = (
    "connection_class",
    "credential_provider",
    "driver_info",
    "encoder_class",
    "event_dispatcher",
    "himport_registry",
    "parser_class",
    "redis_connect_func",
    "retry",
    "retry_on_error",
    "socket_keepalive_options",
)
"""Options that text cannot express."""

_DRIVER_TIMEOUT: Final = signature(Redis).parameters["socket_connect_timeout"].default
"""The driver's default `socket_connect_timeout`: a client that has this value was given no other."""

_UNKNOWN: Final = re.compile(r"unexpected keyword argument '\w+'")


def endpoint_of(url: RedisUrl) -> RedisEndpoint:
    """Return the endpoint that a URL, client or pool describes.

    Raises:
        UsageError: not a Redis URL, client or pool, or with an option that connections do not have.
    """
    try:
        parts = StoreUrl.parse(url) if isinstance(url, str) else None
    except UsageError as error:
        raise UsageError(f"not a Redis URL: {error}") from None
    given = f"not a Redis URL: {parts.scheme}://..." if parts else "unusable client or pool"
    try:
        endpoint = _of_url(parts) if parts else _of_client(url)
        for seed in endpoint.seeds[:1]:
            endpoint.at(seed).connection()
            if endpoint.service:
                endpoint.sentinel(seed).connection()
        if not endpoint.seeds:
            endpoint.connection()
    except (TypeError, ValueError, RedisError) as error:
        unknown = _UNKNOWN.search(str(error))
        raise UsageError(f"{given}: {unknown[0] if unknown else error}") from None
    return endpoint


# -- URLs --------------------------------------------------------------------------------------------------------------


def _of_url(parts: StoreUrl) -> RedisEndpoint:
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"not a Redis URL: {parts.scheme}://; use {'://, '.join(_SCHEMES)}://")
    scheme, _, topology = parts.scheme.partition("+")
    kind = {"rediss": SSLConnection, "unix": UnixDomainSocketConnection}.get(scheme, DriverConnection)
    given = dict(parts.options)
    for name, value in {"username": parts.username, "password": parts.password}.items():
        if value is not None:
            if name in given:
                raise ValueError(f"{name} is given twice, before the hosts and as an option")
            given[name] = value
    if topology == "sentinel":
        return _of_sentinels(parts, kind, given)
    if topology == "cluster":
        if parts.path or given.get("db", "0") != "0":
            raise ValueError("a cluster has no databases")
        return _endpoint(kind, _typed(given, "host", "port", "path"), seeds=_seeds(parts, 6379))
    if len(parts.hosts) > 1:
        raise ValueError("one server has one host; for several write redis+sentinel:// or redis+cluster://")
    if scheme == "unix":
        options = {**_typed(given, "host", "port"), "path": f"/{parts.path}"}
    else:
        options = {"host": "localhost", "port": 6379, **_typed(given, "path"), **_database(parts.path, given)}
    for host, port in parts.hosts:
        if {"host", "port"} & set(given):
            raise ValueError("host or port is given twice, also as an option")
        options |= {"host": host, "port": port or 6379}
    return _endpoint(kind, options)


def _of_sentinels(parts: StoreUrl, kind: type[Any], given: dict[str, str]) -> RedisEndpoint:
    """Read `redis+sentinel://user:password@host:port,host:port/service/db?sentinel_NAME=...`."""
    service, _, database = parts.path.partition("/")
    if not service:
        raise ValueError("name the service that the sentinels watch: redis+sentinel://host:port/service/db")
    own = {name.removeprefix("sentinel_"): given.pop(name) for name in tuple(given) if name.startswith("sentinel_")}
    has_tls = own.pop("ssl", "true" if kind is SSLConnection else "false").lower()
    if has_tls not in ("true", "false"):
        raise ValueError("sentinel_ssl is true or false")
    sentinel_kind = DriverConnection
    if has_tls == "true":
        sentinel_kind = SSLConnection
        own = {**{name: value for name, value in given.items() if name.startswith("ssl_")}, **own}
        if kind is not SSLConnection:
            given = {name: value for name, value in given.items() if not name.startswith("ssl_")}
    options = {**_typed(given, "host", "port", "path"), **_database(database, given)}
    return _endpoint(
        kind,
        options,
        seeds=_seeds(parts, 26_379),
        service=service,
        sentinel_kind=sentinel_kind,
        sentinel_options=_cleaned(_typed(own, "host", "port", "path", "db")),
    )


def _database(path: str, given: Mapping[str, str]) -> dict[str, int]:
    digits = path.removesuffix("/")
    if not digits:
        return {}
    if not re.fullmatch(r"[0-9]{1,9}", digits):
        raise ValueError("the database must be a number")
    if given.get("db", digits) != digits:
        raise ValueError("db is given twice, in the path and as an option")
    return {"db": int(digits)}


def _seeds(parts: StoreUrl, port: int) -> list[Address]:
    if not parts.hosts:
        raise ValueError("it names no host: write redis+sentinel://host:port/service or redis+cluster://host:port")
    return [(host, given or port) for host, given in parts.hosts]


def _typed(given: Mapping[str, str], *unknown: str) -> dict[str, Any]:
    """Return options with the types that the driver gives them; none of the messages shows a value."""
    for name in given:
        if name in unknown:
            raise ValueError(f"the option {name} does not apply here")
        if name in _OBJECTS:
            raise ValueError(f"the option {name} cannot be given in a URL: pass a client of redis.asyncio")
    try:
        query = urlencode(given, quote_via=quote)
        options = dict(ConnectionPool.from_url(f"redis://localhost?{query}").connection_kwargs)
    except RedisError:
        raise ValueError("one of the options has a value that redis-py does not accept") from None
    host = given.get("host")
    return {name: value for name, value in options.items() if name != "host"} | ({"host": host} if host else {})


# -- clients -----------------------------------------------------------------------------------------------------------


def _of_client(client: object) -> RedisEndpoint:
    if isinstance(client, RedisCluster):
        return _of_cluster(client)
    if isinstance(client, Redis):
        client = client.connection_pool
    if isinstance(client, SentinelConnectionPool):
        return _of_sentinel_pool(client)
    if isinstance(client, ConnectionPool):
        return _endpoint(client.connection_class, client.connection_kwargs)
    if isinstance(client, Sentinel):
        raise UsageError("url must be a client of one service: pass sentinel.master_for(NAME), not the Sentinel")
    if isinstance(client, SyncRedis | SyncCluster):
        raise UsageError("url must be a Redis URL, or a client of redis.asyncio, got one of redis: use its URL")
    raise UsageError(f"url must be a Redis URL, client or pool, got {type(client).__name__}")


def _of_cluster(client: Any) -> RedisEndpoint:
    given = client.get_connection_kwargs()
    is_tls = issubclass(given.get("connection_class", DriverConnection), SSLConnection)
    kind = SSLConnection if is_tls else DriverConnection
    known = {name for each in kind.__mro__ for name in signature(each).parameters}  # others are the client's
    options = {name: value for name, value in given.items() if name in known and name not in ("host", "port")}
    manager = client.nodes_manager
    seeds = [(str(node.host), int(node.port)) for node in manager.startup_nodes.values()]
    return _endpoint(kind, options, seeds=seeds, remap=manager.address_remap)


def _of_sentinel_pool(pool: Any) -> RedisEndpoint:
    if not pool.is_master:
        raise UsageError("url is a client of replicas, which are never used: pass sentinel.master_for(NAME)")
    manager = pool.sentinel_manager
    sentinels = [client.connection_pool for client in manager.sentinels]
    kind = SSLConnection if issubclass(pool.connection_class, SentinelManagedSSLConnection) else DriverConnection
    forced = manager._force_master_ip
    return _endpoint(
        kind,
        pool.connection_kwargs,
        seeds=[(str(each.connection_kwargs["host"]), int(each.connection_kwargs["port"])) for each in sentinels],
        service=str(pool.service_name),
        sentinel_kind=sentinels[0].connection_class,
        sentinel_options=_cleaned(sentinels[0].connection_kwargs),
        remap=None if forced is None else lambda address: (forced, address[1]),
    )


# -- both --------------------------------------------------------------------------------------------------------------


def _endpoint(kind: Any, options: Mapping[str, Any], **others: Any) -> RedisEndpoint:
    given = options.get("socket_connect_timeout")
    timeout = CONNECT_TIMEOUT if given is None or given == _DRIVER_TIMEOUT else float(given)
    return RedisEndpoint(kind, _cleaned(options), connect_timeout=timeout, **others)


def _cleaned(options: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if not name.startswith(_DROPPED)}
    return {name: value for name, value in kept.items() if name not in pinned(0)}
