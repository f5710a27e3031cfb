"""Opens one connection, and says what is wrong where the address, a file or a setting is to blame, not the server."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify.errors import UsageError

from ._dsn import Dsn
from ._errors import ConnectTimeoutError

_SETTING_STATES: Final = {"42704", "55P02", "22023"}
"""Refusals of a setting that was sent with the request to connect: unknown, not changeable, a bad value."""

_FILES: Final = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "passfile": "PGPASSFILE",
}

_abandoned: Final[set[asyncio.Task[Any]]] = set()

_FIXED_OIDS: Final = 10_000
"""Types with OIDs below this one are the same in every database and every release of PostgreSQL."""

_described: Final[dict[frozenset[int], Any]] = {}


class _NamedStatement:
    """Stands in for the driver's query for types, which was not sent.

    Only an unnamed query would have replaced the unnamed statement that the driver has prepared. As this one has a
    name, the driver does not prepare its own again.
    """

    name = "known"


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Queries the definitions of arrays of numbers and of bytes once in a process, not once on each connection.

    That query takes the server longer than opening the connection, and precedes the first save over it. If a later
    driver asks in another way, it asks on each connection again.
    """

    async def _introspect_types(self, typeoids: Iterable[int], *others: Any, **named: Any) -> Any:
        wanted = frozenset(typeoids)
        if wanted in _described:
            return _described[wanted], _NamedStatement
        found = await super()._introspect_types(typeoids, *others, **named)
        if max(wanted) < _FIXED_OIDS:
            _described[wanted] = found[0]
        return found


async def connect(
    dsn: Dsn,
    *,
    timeout: float = 60.0,
    preferences: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Any:
    """Open a connection within `timeout` seconds.

    `preferences` are settings of the server that the DSN may override, also by its parameter `options`; the argument
    `server_settings` overrides both.

    A caller that is cancelled leaves no connection behind, not even one that is established at that very moment.

    Raises:
        ConnectTimeoutError: the time is over.
        UsageError: the DSN, a `PG...` variable of the environment, or a file that they name cannot be used.
    """
    arguments = {"connection_class": _Connection, **dsn.arguments, **_tls(dsn), **options}
    given = dsn.arguments.get("server_settings", {})
    options_of_dsn = given.get("options", "")
    preferred = {
        name: value
        for name, value in preferences.items()
        if not re.search(rf"\b{name}\s*=", options_of_dsn, re.IGNORECASE)
    }
    arguments["server_settings"] = {**preferred, **given, **options.get("server_settings", {})}
    task = asyncio.ensure_future(asyncpg.connect(**arguments))
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await asyncio.shield(task)
    except BaseException as error:
        if not task.done() or isinstance(error, asyncio.CancelledError | TimeoutError):
            _abandoned.add(task)
            task.add_done_callback(_discard)
            task.cancel()
        if isinstance(error, TimeoutError) and limit.expired():
            raise ConnectTimeoutError(f"no connection within {timeout:.3g} s") from None
        if not isinstance(error, Exception):
            raise
        usage = _usage_error(dsn, error)
        if usage is not None:
            raise usage from error
        raise


def _discard(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _tls(dsn: Dsn) -> dict[str, Any]:
    """Return the argument that makes the driver, which accepts only files, trust what the system trusts."""
    if dsn.tls.get("sslrootcert") != "system":
        return {}
    context = ssl.create_default_context()
    if "sslcert" in dsn.tls:
        _check("sslcert", dsn.tls["sslcert"], lambda _: _load_certificate(context, dsn.tls))
    return {"ssl": context}


def _usage_error(dsn: Dsn, error: Exception) -> UsageError | None:
    """Return the error if the caller has to change something; None if the server or the network failed."""
    state = getattr(error, "sqlstate", None) or ""
    text = str(error).partition("\n")[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        return None
    if "unpack" in text:
        return UsageError(
            "a line of the passfile is not host:port:database:user:password; see PGPASSFILE and ~/.pgpass"
        )
    if isinstance(error, ValueError) and not state:
        return UsageError(f"the driver rejected the DSN or a PG... environment variable: {text}")
    if isinstance(error, ImportError | RuntimeError) and "gss" in text.lower():
        return UsageError(f"{text}: the server asks for GSSAPI, which needs the driver's extra, asyncpg[gssauth]")
    if "malformed SCRAM message" in text:
        return UsageError("asyncpg cannot log in a user whose name has a comma or an equals sign: name another user")
    if state in _SETTING_STATES or "startup parameter" in text or (state == "42501" and "parameter" in text):
        return UsageError(f"the server does not accept a setting of the DSN or the environment: {text}; remove it")
    if state and (state != "28P01" or "passfile" not in dsn.arguments):
        return None
    files = {
        word: dsn.tls.get(word) or dsn.arguments.get(word) or os.environ.get(name) for word, name in _FILES.items()
    }
    for word, path in files.items():
        if path and path != "system":
            try:
                _check(word, path, _load_trusted if word in ("sslrootcert", "sslcrl") else _read)
            except UsageError as usage:
                return usage
    if isinstance(error, ssl.SSLError) and files["sslcert"] and "PEM" in text + str(error.reason):
        return UsageError(
            f"sslcert {files['sslcert']!r} and sslkey {files['sslkey']!r} are not a certificate and its key"
        )
    if "user" not in dsn.arguments and not os.environ.get("PGUSER"):
        try:
            getpass.getuser()
        except Exception:
            return UsageError(
                "the DSN names no user, and the system has no name for the user of this process: write postgresql://USER@HOST"
            )
    return None


def _check(word: str, path: str, load: Callable[[str], object]) -> None:
    """Load a file.

    Raises:
        UsageError: it cannot be read, or does not hold what it should.
    """
    try:
        load(path)
    except ssl.SSLError as error:
        message = f"{word} {path!r} does not hold what it should: {error.reason or 'not PEM'}"
        raise UsageError(message) from None
    except OSError as error:
        raise UsageError(f"{word} {path!r} cannot be read: {error.strerror}") from None


def _load_certificate(context: ssl.SSLContext, tls: dict[str, str]) -> None:
    context.load_cert_chain(tls["sslcert"], tls.get("sslkey"), password=lambda: tls.get("sslpassword", ""))


def _load_trusted(path: str) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)
