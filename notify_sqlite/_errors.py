"""The one table that turns SQLite's errors into the library's, and the one place that reports a bug of our own."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from notify import (
    BackendError,
    BackendUnavailableError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
)
from notify.adapters import report_bug

from ._file import why_not

logger = logging.getLogger("notify.sqlite")


class LibraryBugError(Exception):
    """A job raised an error that only a mistake in this library explains: neither SQLite nor the system failed."""


class NoConnectionError(Exception):
    """The connection is closed."""


DRIVER: Final = (sqlite3.Error, OSError, NoConnectionError, LibraryBugError)
"""The exceptions that a job, or a call of the driver, may raise."""

_TEXTS: Final = {
    sqlite3.SQLITE_BUSY: "another connection holds the write lock of the file",
    sqlite3.SQLITE_LOCKED: "another connection holds the lock of a table",
    sqlite3.SQLITE_FULL: "the disk is full: free some space, or raise the quota",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_IOERR: "the system reports an input or output error",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database, or is encrypted: choose another path",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup",
}

_EXPLAINED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR})

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


def unavailable(error: Exception, backend: str, path: str, what: str) -> BackendUnavailableError:
    """Return the error for anything but a push.

    Args:
        error: the driver's, or the library's for a transaction that failed.
        backend: the class that failed.
        path: the file.
        what: begins the message, for example `cannot be read`.
    """
    cause = error.__cause__ if isinstance(error, BackendError) and isinstance(error.__cause__, DRIVER) else error
    described = _describe(cause, path) if isinstance(cause, DRIVER) else str(cause)
    return BackendUnavailableError(f"{what}: {described}", backend=backend)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether the statement failed because another connection holds the lock."""
    return _primary(error) == sqlite3.SQLITE_BUSY


def bug(error: Exception) -> LibraryBugError:
    """Log an exception that only a mistake in this library explains, once, and return what to raise for it."""
    return LibraryBugError(report_bug(error, "notify_sqlite", logger))


def _primary(error: BaseException) -> int | None:
    """Return the primary result code; None where the error is not SQLite's but Python's or the system's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _describe(error: BaseException, path: str) -> str:
    code = _primary(error) or 0
    text = _TEXTS.get(code)
    if str(error).startswith("no such index"):
        return f"{error}, which `notify init` or the next write creates: {path}"
    if text is None:
        return f"{error}: {path}"
    why = why_not(path, code) if code in _EXPLAINED else ""
    return f"{text}; {why} ({error}): {path}" if why else f"{text} ({error}): {path}"
