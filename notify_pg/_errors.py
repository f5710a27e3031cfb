"""Translates the driver's exceptions: one table says what became of a statement that failed.

| SQLSTATE, exception | Disposition | Reason |
|---|---|---|
| 40001, 40P01 | CONFLICT | rolled back by a deadlock or a serialization failure: retried once |
| 25006 | READ_ONLY | rolled back because this server is a standby: a new connection may find the primary |
| 42P01, 42883, 3F000 | UNPREPARED | rolled back because our tables are gone: they are created again |
| NT001 | LATE | rolled back by our own deadline, which `save` checks |
| 08, 57P, 58 | LOST | the connection or the server went away, possibly after the commit |
| any other SQLSTATE | REFUSED | rolled back: 53100 disk full, 55P03 lock timeout, 57014 cancelled ... |
| InterfaceError, "cannot switch to state" | UNSENT | the connection was already dead, so nothing was sent |
| SSLCertVerificationError, "rejected SSL upgrade" | REFUSED | no connection that the DSN allows: nothing was sent |
| UnreachableError | UNSENT | known to be unreachable, so nothing was sent |
| TypeError, KeyError ... not raised in asyncpg | BUG | a mistake in this library: reported as one, never retried |
| anything else | LOST | timeouts, broken connections |
"""

from __future__ import annotations

import logging
import ssl
from enum import Enum
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from notify.adapters import is_bug, report_bug
from notify.errors import (
    BackendUnavailableError,
    NotifyError,
    PushRejectedError,
    PushUncertainError,
)

logger = logging.getLogger("notify.pg")

REMEDY: Final = "run `notify init` as a role that may, or let it run the output of `notify init --print-sql`"


class ConnectTimeoutError(TimeoutError):
    """A connection was not established in time."""


class UnreachableError(ConnectionError):
    """The server is known to be unreachable, so nothing was tried; the cause says why."""

    def __str__(self) -> str:
        return "" if self.__cause__ is None else describe(self.__cause__)


class PostgresDisposition(Enum):
    """What became of a statement that failed."""

    CONFLICT = "conflict"
    READ_ONLY = "read only"
    UNPREPARED = "unprepared"
    LATE = "late"
    REFUSED = "refused"
    LOST = "lost"
    UNSENT = "unsent"
    BUG = "bug"


_STATES: Final = {
    "40001": PostgresDisposition.CONFLICT,
    "40P01": PostgresDisposition.CONFLICT,
    "25006": PostgresDisposition.READ_ONLY,
    "42P01": PostgresDisposition.UNPREPARED,
    "42883": PostgresDisposition.UNPREPARED,
    "3F000": PostgresDisposition.UNPREPARED,
    "NT001": PostgresDisposition.LATE,
}
_CLASSES: Final = {"08": PostgresDisposition.LOST, "57P": PostgresDisposition.LOST, "58": PostgresDisposition.LOST}


def disposition_of(error: BaseException) -> PostgresDisposition:
    """Return what became of the statement that raised this error."""
    # asyncpg reports an idle connection that the server has just terminated as an internal error with this text.
    if isinstance(error, asyncpg.InterfaceError | UnreachableError) or "cannot switch to state" in str(error):
        return PostgresDisposition.UNSENT
    if is_bug(error, "asyncpg"):
        return PostgresDisposition.BUG
    if is_about_tls(error):
        return PostgresDisposition.REFUSED
    state = state_of(error)
    if not isinstance(error, asyncpg.PostgresError) or not state:
        return PostgresDisposition.LOST
    return _STATES.get(state) or _CLASSES.get(state[:2]) or _CLASSES.get(state[:3]) or PostgresDisposition.REFUSED


def state_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error, empty if it has none."""
    return getattr(error, "sqlstate", None) or ""


def is_locked(error: BaseException) -> bool:
    """Return whether the statement timed out on a lock that another transaction holds."""
    return state_of(error) == "55P03"


def is_temporary(error: BaseException) -> bool:
    """Return whether the server is short of a resource, such as connections, and may accept one soon."""
    return state_of(error)[:2] == "53"


def is_unreachable(error: BaseException) -> bool:
    """Return whether a failed attempt to connect means that the server is away: gone, cut off, starting, stopping."""
    if isinstance(error, asyncpg.PostgresError):
        return state_of(error)[:3] == "57P"
    is_late = isinstance(error, TimeoutError) and not isinstance(error, ConnectTimeoutError) and error.errno is None
    return (
        isinstance(error, OSError) and not is_late and not isinstance(error, ssl.SSLError) and not is_about_tls(error)
    )


def is_about_tls(error: BaseException) -> bool:
    """Return whether the server has no certificate that the DSN accepts, or no TLS where the DSN requires it."""
    return isinstance(error, ssl.SSLCertVerificationError) or "rejected SSL upgrade" in str(error)


def is_short_of_connections(error: BaseException) -> bool:
    """Return whether the server or the role has no connection left to give."""
    return state_of(error) == "53300"


def is_about_data(error: BaseException) -> bool:
    """Return whether one event of a batch may have caused the error: invalid data, a constraint, a limit."""
    return state_of(error)[:2] in ("22", "23", "54")


def detail_of(error: BaseException) -> str:
    """Return the DETAIL that the server sent with the error."""
    return str(getattr(error, "detail", ""))


def describe(error: BaseException) -> str:
    """Return an error as one line: its text may span several lines, and may be empty."""
    text = str(error).partition("\n")[0]
    if isinstance(error, UnreachableError):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ") + _hint(error)


def _hint(error: BaseException) -> str:
    """Return what to do about an error, as the end of its description."""
    if is_short_of_connections(error):
        return "; lower pool_size=, or raise the limit"
    if state_of(error) in ("42P01", "42883"):  # a release added the table or function, and this role may not create it
        return f"; {REMEDY}"
    return ""


def rejected(error: BaseException, backend: str) -> NotifyError:
    """Return the error for an event that is certainly not stored."""
    reason = ", because another transaction holds the log of this user" if is_locked(error) else ""
    message = f"PostgreSQL did not store the event{reason}: {describe(error)}"
    if is_bug(error, "asyncpg"):
        message = f"the event is not stored: {report_bug(error, backend, logger)}"
    return _caused_by(error, PushRejectedError(message, backend=backend))


def uncertain(error: BaseException, backend: str) -> NotifyError:
    """Return the error for an event that may have been stored."""
    message = f"the connection was lost before PostgreSQL answered, so the event may be stored: {describe(error)}"
    if is_bug(error, "asyncpg"):
        message = f"the event may be stored: {report_bug(error, backend, logger)}"
    return _caused_by(error, PushUncertainError(message, backend=backend))


def unavailable(error: BaseException, backend: str) -> NotifyError:
    """Return the error for a failed call that was not a save."""
    if isinstance(error, NotifyError):
        return error
    message = f"PostgreSQL {_failure_phrase(error)}: {describe(error)}"
    if is_bug(error, "asyncpg"):
        message = report_bug(error, backend, logger)
    return _caused_by(error, BackendUnavailableError(message, backend=backend))


def _failure_phrase(error: BaseException) -> str:
    """Return what the server did, as the verb phrase of a message."""
    if is_about_tls(error):
        return "cannot be trusted as the DSN requires (sslmode, sslrootcert)"
    state = state_of(error)
    if state[:2] in ("28", "3D") or state in ("53300", "57P03"):  # role, database, too many clients, starting up
        return "refused the connection"
    if not isinstance(error, asyncpg.PostgresError) or state[:2] in ("", "08"):
        return "did not answer"
    return "answered with an error"


def _caused_by(cause: BaseException, error: NotifyError) -> NotifyError:
    error.__cause__ = cause
    return error
