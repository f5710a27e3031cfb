"""The one table that turns SQLite's errors into the library's."""

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
"""What a call of the driver may raise; aiosqlite raises ValueError where the connection is closed."""

_TEXTS: Final = {
    sqlite3.SQLITE_BUSY: "another connection holds the write lock of the file",
    sqlite3.SQLITE_LOCKED: "another connection holds the lock of a table",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
}

_NOT_COMMITTED: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
"""Codes after which a failed COMMIT has certainly stored nothing, because its last page was not even written.

Any other code, such as that of a failed flush, comes after the write: recovery after a crash may find the commit.
"""


class FileReplacedError(OSError):
    """The path no longer names the file that was opened."""


def rejected(error: Exception, backend: str, path: str) -> PushRejectedError:
    """Return the error for a transaction that certainly stored nothing."""
    kind = OverloadedError if _primary(error) == sqlite3.SQLITE_BUSY else PushRejectedError
    return kind(f"nothing was stored: {_describe(error, path)}", backend=backend)


def failed_commit(error: Exception, backend: str, path: str) -> PushRejectedError | PushUncertainError:
    """Return the error for a COMMIT that failed and was rolled back."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in _NOT_COMMITTED or _primary(error) in _NOT_COMMITTED:
        return rejected(error, backend, path)
    message = f"the commit failed, and a crash may bring its events back: {_describe(error, path)}"
    return PushUncertainError(message, backend=backend)


def unavailable(error: Exception, backend: str, path: str) -> BackendUnavailableError:
    """Return the error for a failed read, or for a failed clean-up, which is safe to repeat."""
    if isinstance(error, BackendError):  # the transaction of a clean-up: `rejected` has described it
        return BackendUnavailableError(str(error), backend=backend)
    return BackendUnavailableError(f"cannot be read: {_describe(error, path)}", backend=backend)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether the statement failed because another connection holds the lock."""
    return _primary(error) == sqlite3.SQLITE_BUSY


def _primary(error: Exception) -> int | None:
    """Return the primary result code; None where the error is not SQLite's but Python's or the system's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _describe(error: Exception, path: str) -> str:
    text = _TEXTS.get(_primary(error) or 0)
    return f"{text} ({error}): {path}" if text else f"{error}: {path}"
