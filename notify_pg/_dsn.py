"""What a DSN is to the driver: refused in the constructor, before the driver could print a piece of a password.

No message here shows more of a DSN than its scheme: where it is malformed, nobody knows which part is the password.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg  # type: ignore[import-untyped]

from notify.errors import UsageError

_FORM: Final = "postgresql://user:password@host:5432/database"
_HOST: Final = r"(?:\[[^\[\]]+\]|[^@:,\[\]]+)(?::\d*)?"
_HOSTS: Final = re.compile(rf"(?:{_HOST}(?:,{_HOST})*)?")
_PORTS: Final = re.compile(r"[\d,]*")


def check_dsn(dsn: str) -> None:
    """Refuse what the driver would not understand.

    Raises:
        UsageError: it is no DSN, or parts of it mean something else than they seem to.
    """
    try:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise _malformed() from None  # its text holds a piece of the DSN
    scheme, dialect, driver = parts.scheme.partition("+")
    if scheme in ("postgresql", "postgres") and dialect:
        raise UsageError(f"that is a URL of SQLAlchemy; write {scheme}:// without +{driver}, as in {_FORM}")
    if scheme not in ("postgresql", "postgres"):
        raise UsageError(f"a DSN begins with postgresql:// or postgres://, as in {_FORM}; this one does not")
    _, mark, behind = parts.netloc.partition("@")  # the first one, as the driver does
    ports = query.get("port", [""])[-1]
    if not _HOSTS.fullmatch(behind if mark else parts.netloc) or not _PORTS.fullmatch(ports) or parts.fragment:
        raise _malformed()


def _malformed() -> UsageError:
    return UsageError(
        f"the DSN is malformed; it is {_FORM}, and a character of user or password that means something in a URL, "
        "such as / : @ # or ?, is percent-encoded, as %2F for /"
    )


async def connect(dsn: str, **options: Any) -> Any:
    """Open a connection.

    Raises:
        UsageError: DSN and environment do not say where to, or not as the driver wants it.
    """
    try:
        return await asyncpg.connect(dsn, **options)
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise UsageError(f"the DSN or the environment is no good: {error}") from error
