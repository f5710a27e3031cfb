"""Checks a DSN in the constructor, before the driver could print part of a password.

No message in this module shows more of a DSN than its scheme: in a malformed one there is no telling which part is the
password.
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
    """Reject a DSN that the driver would not understand, or would read differently from how it looks.

    Raises:
        UsageError: not a DSN, or malformed.
    """
    try:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise _malformed() from None  # the text of the error holds part of the DSN
    scheme, dialect, driver = parts.scheme.partition("+")
    if scheme in ("postgresql", "postgres") and dialect:
        raise UsageError(f"that is a URL for SQLAlchemy; write {scheme}:// without +{driver}, as in {_FORM}")
    if scheme not in ("postgresql", "postgres"):
        raise UsageError(f"a DSN begins with postgresql:// or postgres://, as in {_FORM}; this one does not")
    _, mark, after_mark = parts.netloc.partition("@")  # at the first @, as the driver does
    ports = query.get("port", [""])[-1]
    if not _HOSTS.fullmatch(after_mark if mark else parts.netloc) or not _PORTS.fullmatch(ports) or parts.fragment:
        raise _malformed()


def _malformed() -> UsageError:
    return UsageError(
        f"the DSN is malformed; expected {_FORM}, with characters of user and password that have a meaning in a URL "
        "(such as / : @ # or ?) percent-encoded, for example %2F for /"
    )


async def connect(dsn: str, **options: Any) -> Any:
    """Open a connection.

    Raises:
        UsageError: the driver does not accept the DSN or a `PG...` variable of the environment.
    """
    try:
        return await asyncpg.connect(dsn, **options)
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise UsageError(f"the driver rejected the DSN or a PG... environment variable: {error}") from error
