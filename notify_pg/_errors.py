"""What the driver's exceptions mean: the one table that translates them.

| SQLSTATE, exception | PostgresDisposition | Why |
|---|---|---|
| 40001, 40P01 | CONFLICT | rolled back as the victim of a deadlock or a serialisation failure: repeated once |
| 25006 | READ_ONLY | rolled back; this server is a standby: the next connection may find the primary |
| 42P01, 42883, 3F000 | UNPREPARED | rolled back; somebody has removed our tables: they are made again |
| NT001 | LATE | rolled back by our own fence |
| 08, 57P, 58 | LOST | the connection or the server went away, perhaps after it had committed |
| any other SQLSTATE | REFUSED | rolled back: 53100 disk full, 55P03 lock timeout, 57014 cancelled ... |
| InterfaceError, "cannot switch to state" | UNSENT | the connection was dead before anything was sent |
| anything else | LOST | time-outs, broken connections |
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from notify.errors import (
    BackendUnavailableError,
    NotifyError,
    PushRejectedError,
    PushUncertainError,
)


class PostgresDisposition(Enum):
    """What became of a statement that failed."""

    CONFLICT = "conflict"
    READ_ONLY = "read only"
    UNPREPARED = "unprepared"
    LATE = "late"
    REFUSED = "refused"
    LOST = "lost"
    UNSENT = "unsent"


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
    """Return what became of the statement that raised this."""
    if isinstance(error, asyncpg.InterfaceError) or "cannot switch to state" in str(error):
        return PostgresDisposition.UNSENT
    state = _state(error)
    if not isinstance(error, asyncpg.PostgresError) or not state:
        return PostgresDisposition.LOST
    return _STATES.get(state) or _CLASSES.get(state[:2]) or _CLASSES.get(state[:3]) or PostgresDisposition.REFUSED


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def is_locked(error: BaseException) -> bool:
    """Return whether it was given up because another transaction holds a lock."""
    return _state(error) == "55P03"


def is_temporary(error: BaseException) -> bool:
    """Return whether a connection that was refused may be granted soon: there are too many."""
    return _state(error)[:2] == "53"


def is_about_data(error: BaseException) -> bool:
    """Return whether one event of a batch may be to blame: unacceptable data, constraints, limits."""
    return _state(error)[:2] in ("22", "23", "54")


def detail_of(error: BaseException) -> str:
    """Return the detail that the server sent along."""
    return str(getattr(error, "detail", ""))


def describe(error: BaseException) -> str:
    """Return an error in one line: its text may span several, and may be empty."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")


def rejected(error: BaseException, backend: str) -> NotifyError:
    """Return the error of an event that is certainly not stored."""
    because = ", for another transaction holds the log of this user" if is_locked(error) else ""
    message = f"PostgreSQL did not store it{because}: {describe(error)}"
    return _because(PushRejectedError(message, backend=backend), error)


def uncertain(error: BaseException, backend: str) -> NotifyError:
    """Return the error of an event that may be stored."""
    message = f"PostgreSQL was lost before it answered, so the event may be stored: {describe(error)}"
    return _because(PushUncertainError(message, backend=backend), error)


def unavailable(error: BaseException, backend: str) -> NotifyError:
    """Return the error of anything but a save."""
    if isinstance(error, NotifyError):
        return error
    return _because(
        BackendUnavailableError(f"PostgreSQL {_failure_phrase(error)}: {describe(error)}", backend=backend), error
    )


def _failure_phrase(error: BaseException) -> str:
    """Return what the server did instead of what was asked."""
    state = _state(error)
    if state[:2] in ("28", "3D") or state in ("53300", "57P03"):  # who, which database, too many, starting up
        return "refused the connection"
    if not isinstance(error, asyncpg.PostgresError) or state[:2] in ("", "08"):
        return "did not answer"
    return "answered with an error"


def _because(error: NotifyError, cause: BaseException) -> NotifyError:
    error.__cause__ = cause
    return error
