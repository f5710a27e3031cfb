"""The table that turns SQLite's errors into the library's, at the driver's edge."""

from __future__ import annotations

import sqlite3
from typing import Final

from notify import (
    BackendError,
    BackendUnavailableError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
)

DRIVER: Final = (sqlite3.Error, OSError, ValueError)
"""What a call of the driver may raise; aiosqlite raises ValueError for a connection that is closed."""

_TEXTS: Final = {
    sqlite3.SQLITE_BUSY: "somebody else holds the lock of the file",
    sqlite3.SQLITE_LOCKED: "another connection holds the lock of a table",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
}

_HARMLESS: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
"""Codes after which a COMMIT that failed has stored nothing: its last page was not even written."""


class FileReplacedError(OSError):
    """The file that was opened is no longer the one at the path."""


def rejected(error: Exception, backend: str, path: str) -> PushRejectedError:
    """Return the error for a transaction of which certainly nothing is stored."""
    kind = OverloadedError if _primary(error) == sqlite3.SQLITE_BUSY else PushRejectedError
    return kind(f"nothing was stored: {_describe(error, path)}", backend=backend)


def failed_commit(error: Exception, backend: str, path: str) -> PushRejectedError | PushUncertainError:
    """Return the error for a COMMIT that failed and was rolled back."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in _HARMLESS or _primary(error) in _HARMLESS:
        return rejected(error, backend, path)
    message = f"the commit failed, and may be found after a crash: {_describe(error, path)}"
    return PushUncertainError(message, backend=backend)


def unavailable(error: Exception, backend: str, path: str) -> BackendUnavailableError:
    """Return the error for a read, or for a clean-up that may be repeated."""
    if isinstance(error, BackendError):  # a transaction that was refused above
        return BackendUnavailableError(str(error), backend=backend)
    return BackendUnavailableError(f"cannot be read: {_describe(error, path)}", backend=backend)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether somebody else holds the lock that was needed."""
    return _primary(error) == sqlite3.SQLITE_BUSY


def _primary(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python itself complains
    return None if code is None else code & 0xFF


def _describe(error: Exception, path: str) -> str:
    text = _TEXTS.get(_primary(error) or 0)
    return f"{text} ({error}): {path}" if text else f"{error}: {path}"
