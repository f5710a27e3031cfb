"""Reads a DSN in the constructor, before the driver could print part of a password.

The driver reads a DSN as libpq does, except for words of libpq that it does not know: those it sends to the server as
settings, which refuses the connection. Hosted databases hand out DSNs with such words. Here each word of libpq and of
other clients is honoured, ignored because nothing depends on it, or refused by name with what to write instead.

No message in this module shows a value of a DSN, because in a malformed one there is no telling which part is the
password. A word is shown only if the whole DSN is well-formed.
"""

from __future__ import annotations

import configparser
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

from notify.errors import UsageError

FORM: Final = "postgresql://user:password@host:5432/database"

_HOST: Final = re.compile(r"(\[[^\[\]]+\]|[^@:,\[\]]*)(?::(\d*))?")
_PORTS: Final = re.compile(r"\d{0,5}(?:,\d{0,5})*")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]|^\s|\s$")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")

TLS: Final[tuple[str, ...]] = (
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
)  # fmt: skip
"""Words that are passed to the driver in a DSN, because it has no arguments for them."""

_ARGUMENTS: Final = {
    "user": "user", "password": "password", "database": "database", "dbname": "database", "passfile": "passfile",
    "target_session_attrs": "target_session_attrs", "krbsrvname": "krbsrvname", "gsslib": "gsslib",
}  # fmt: skip

_IGNORED: Final = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
    "sslcompression", "authtype", "tty", "min_protocol_version", "max_protocol_version", "supa", "workaround",
}  # fmt: skip
"""Words on which nothing depends: `timeout=` bounds every call, and probes find connections that have died."""

_UNLESS: Final[dict[str, tuple[set[str], str]]] = {
    "channel_binding": (
        {"prefer", "disable"},
        "asyncpg has no channel binding: remove it, and use sslmode=verify-full, which guards against the same attack",
    ),
    "gssencmode": ({"prefer", "disable"}, "asyncpg has no GSSAPI encryption: remove it, or use sslmode=verify-full"),
    "gssdelegation": ({"0"}, "asyncpg does not delegate GSSAPI credentials: remove it"),
    "sslcertmode": ({"allow"}, "asyncpg sends a certificate exactly if sslcert is given: remove it"),
    "sslsni": ({"1"}, "asyncpg always sends the host's name: remove it"),
    "requiressl": ({"0"}, "write sslmode=require"),
    "replication": ({"false", "off", "no", "0"}, "remove it"),
    "load_balance_hosts": ({"disable"}, "asyncpg tries the hosts in their order: remove it"),
    "client_encoding": ({"utf8", "utf-8", "unicode", "auto"}, "the library speaks UTF-8 only: remove it"),
    "schema": ({"public"}, "it is Prisma's: remove it, and pass schema= to the store"),
    "pgbouncer": ({"true", "false"}, "a pooler is detected: remove it"),
}
"""Words that are ignored with these values, and what to do instead of the others."""

_REFUSED: Final = {
    "hostaddr": "write the address as the host",
    "requirepeer": "asyncpg does not check the server's user: remove it",
    "require_auth": "asyncpg cannot restrict the method of authentication: remove it, or use sslmode=verify-full",
    "sslcrldir": "write sslcrl, with a file",
    "sslkeylogfile": "set SSLKEYLOGFILE in the environment",
    "scram_client_key": "write the password",
    "scram_server_key": "write the password",
    "oauth_issuer": "asyncpg has no OAuth: remove it",
    "oauth_client_id": "asyncpg has no OAuth: remove it",
    "oauth_client_secret": "asyncpg has no OAuth: remove it",
    "oauth_scope": "asyncpg has no OAuth: remove it",
    "ssl": "write sslmode=require or sslmode=verify-full",
    "sslaccept": "write sslmode=require or sslmode=verify-full",
    "sslidentity": "write sslcert and sslkey",
    "sslfactory": "write sslmode=require or sslmode=verify-full",
    "uselibpqcompat": "sslmode means what it means to libpq here: remove it",
    "connection_limit": "remove it, and pass pool_size= to the store",
    "pool_size": "remove it, and pass pool_size= to the store",
    "max_overflow": "remove it, and pass pool_size= to the store",
    "pool_timeout": "remove it, and pass timeout= to the store",
    "socket_timeout": "remove it, and pass timeout= to the store",
    "command_timeout": "remove it, and pass timeout= to the store",
    "statement_cache_size": "behind a pooler no statements are cached: remove it",
    "prepared_statement_cache_size": "behind a pooler no statements are cached: remove it",
    "prepared_statement_name_func": "behind a pooler no statements are cached: remove it",
    "prepareThreshold": "behind a pooler no statements are cached: remove it",
    "async_fallback": "it is SQLAlchemy's: remove it",
    "currentSchema": "remove it, and pass schema= to the store",
    "search_path": "the library names the schema in every statement: remove it, and pass schema= to the store",
    "ApplicationName": "write application_name",
    "username": "write user",
}
"""Words that the driver does not support, and what to do instead."""

_ENVIRONMENT: Final = {
    "application_name": "PGAPPNAME", "options": "PGOPTIONS", "service": "PGSERVICE", "hostaddr": "PGHOSTADDR",
    "channel_binding": "PGCHANNELBINDING", "gssencmode": "PGGSSENCMODE", "require_auth": "PGREQUIREAUTH",
}  # fmt: skip
"""Variables of libpq that the driver does not read; it reads PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and the like."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """What a DSN says.

    Attributes:
        arguments: of `asyncpg.connect`.
        tls: the words about TLS.
        is_pooled: whether it says that a pooler stands in between.
    """

    arguments: dict[str, Any] = field(repr=False)
    tls: dict[str, str] = field(repr=False)
    is_pooled: bool


def check_dsn(dsn: str) -> Dsn:
    """Return what a DSN says; reject one that the driver would read differently from how it looks.

    Raises:
        UsageError: not a DSN, malformed, or with a word that cannot be honoured.
    """
    words = _read(dsn)
    added = {
        word: os.environ[name] for word, name in _ENVIRONMENT.items() if os.environ.get(name) and word not in words
    }
    words |= added
    if "service" in words:
        words = _read_service(words.pop("service"), words.pop("servicefile", "")) | words
    for word, value in words.items():
        accepted, remedy = _UNLESS.get(word, (set(), _REFUSED.get(word, "")))
        if remedy and value.lower() not in accepted:
            source = f"the DSN has {word!r}" if word not in added else f"{_ENVIRONMENT[word]} is set"
            raise UsageError(f"{source}, which cannot be honoured: {remedy}")
    tls = {word: words.pop(word) for word in TLS if word in words}
    if tls.get("sslrootcert") == "system" and tls.setdefault("sslmode", "verify-full") != "verify-full":
        raise UsageError("sslrootcert=system requires sslmode=verify-full: any other mode would trust any server")
    arguments: dict[str, Any] = {"dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}" if tls else "postgresql://"}
    arguments |= _hosts(words.pop("host", ""), words.pop("port", ""))
    if "sslnegotiation" in words:
        arguments["direct_tls"] = _is_direct(words.pop("sslnegotiation"))
    if "fallback_application_name" in words:
        words.setdefault("application_name", words.pop("fallback_application_name"))
    is_pooled = words.get("pgbouncer", "").lower() == "true"
    for word in [word for word in words if word in _ARGUMENTS]:
        arguments[_ARGUMENTS[word]] = words.pop(word)
    settings = {word: value for word, value in words.items() if word not in _IGNORED and word not in _UNLESS}
    return Dsn(arguments | ({"server_settings": settings} if settings else {}), tls, is_pooled)


def _read(dsn: str) -> dict[str, str]:
    """Return the words of a DSN, decoded."""
    parts = None
    with suppress(ValueError):  # its text holds part of the DSN, so it must not be the context of another error either
        parts = urlsplit(dsn)
    if parts is None:
        raise _malformed()
    scheme, dialect, driver = parts.scheme.partition("+")
    if scheme in ("postgresql", "postgres") and dialect:
        raise UsageError(f"the DSN is a URL for SQLAlchemy; write {scheme}:// without +{driver}, as in {FORM}")
    if scheme not in ("postgresql", "postgres"):
        raise UsageError(f"a DSN begins with postgresql:// or postgres://, as in {FORM}; this one does not")
    login, mark, hosts = parts.netloc.rpartition("@")
    rest = dsn[len(parts.scheme) + 1 :]
    if not rest.startswith("//") or rest.count("@") != len(mark) or "#" in dsn or _UNPRINTABLE.search(dsn):
        raise _malformed()  # a second @ may belong to the password, and so may all that is before it
    words: dict[str, str] = {}
    user, _, password = login.partition(":")
    database = parts.path.removeprefix("/")
    given = [("user", user), ("password", password), ("database", database)]
    given += [_word(part) for part in parts.query.split("&") if part]
    for word, value in given:
        if value or word not in ("user", "password", "database"):
            words[_decode(word)] = _decode(value)
    if hosts and "host" not in words:
        words |= _split_hosts(hosts)
    if not _PORTS.fullmatch(words.get("port", "")):
        raise _malformed()
    return words


def _word(part: str) -> tuple[str, str]:
    word, mark, value = part.partition("=")
    if not mark or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", word):
        raise _malformed()
    return "database" if word == "dbname" else word, value


def _decode(text: str) -> str:
    """Decode as libpq does: a plus sign is one."""
    if _BAD_PERCENT.search(text):
        raise _malformed()
    with suppress(UnicodeDecodeError):  # it holds the text
        return unquote(text, errors="strict")
    raise _malformed()


def _split_hosts(hosts: str) -> dict[str, str]:
    """Return the words `host` and `port` of `host:port,host:port`."""
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    names = [_decode(match[1]) if match else "" for match in found]
    ports = [match[2] or "" if match else "" for match in found]
    if not all(found) or (not all(names) and len(found) > 1):
        raise _malformed()
    return {"host": ",".join(names)} | ({"port": ",".join(port or "5432" for port in ports)} if any(ports) else {})


def _hosts(hosts: str, ports: str) -> dict[str, Any]:
    """Return the driver's arguments for these hosts and ports."""
    arguments: dict[str, Any] = {}
    if hosts:
        arguments["host"] = [host.strip("[]") for host in hosts.split(",")]
    if ports:
        numbers = [int(port or 5432) for port in ports.split(",")]
        if not all(0 < number < 65536 for number in numbers):
            raise UsageError("a port of the DSN is not between 1 and 65535")
        arguments["port"] = numbers if len(numbers) > 1 else numbers[0]
    return arguments


def _is_direct(negotiation: str) -> bool:
    if negotiation not in ("postgres", "direct"):
        raise UsageError("the DSN has 'sslnegotiation', which must be postgres or direct")
    return negotiation == "direct"


def _read_service(service: str, file: str) -> dict[str, str]:
    """Return the words of a service; the driver would take an unknown one for the local server."""
    path = Path(file or os.environ.get("PGSERVICEFILE") or Path("~/.pg_service.conf").expanduser())
    parser: configparser.ConfigParser | None = None
    try:
        with path.open(encoding="utf-8") as lines, suppress(configparser.Error, UnicodeDecodeError):  # they show a line
            found = configparser.ConfigParser(interpolation=None)
            found.read_file(lines)
            parser = found
    except OSError as error:
        raise UsageError(f"the service file {str(path)!r} cannot be read: {error.strerror}") from None
    if parser is None:
        raise UsageError(f"the service file {str(path)!r} is malformed")
    if not parser.has_section(service):
        raise UsageError(f"the service file {str(path)!r} has no such service; see 'service' in the DSN, or PGSERVICE")
    return {"database" if word == "dbname" else word: value for word, value in parser.items(service)}


def _malformed() -> UsageError:
    return UsageError(
        f"the DSN is malformed; expected {FORM}, with characters of user and password that have a meaning in a URL "
        "(such as / : @ # ? [ or %) percent-encoded, for example %2F for /"
    )
