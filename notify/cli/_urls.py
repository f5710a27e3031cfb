"""Turns the URL of a store into the store: for the command line. A backend is imported when its URL is asked for."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ..abc import StreamStore
from ..errors import NotifyError, UsageError

DEFAULT: Final = "sqlite:///notify.db"
"""A file in the working directory."""

SCHEMES: Final = {
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "unix": "redis",
    "postgresql": "pg",
    "postgres": "pg",
}
"""The extra that each kind of URL needs; the package is called `notify_<extra>`."""

NAMES: Final = {"sqlite": "SQLiteStreamStore", "redis": "RedisStreamStore", "pg": "PostgresStreamStore"}

KEEP_ALL: Final = (1 << 31) - 1
"""Events of a user: the command knows nothing of the application's limits, so it removes nothing by itself."""

KEEP_KEYS: Final = 10 * 365 * 86_400.0
"""The same in seconds for idempotency keys that stand in a table."""

_LOGIN = re.compile(r"//(?:[^@/]*|\S*)@")
_SECRET = re.compile(r"(password=)[^&\s'\"]+", re.IGNORECASE)


class MissingError(NotifyError):
    """A driver that is not installed, or a file that is not there."""


def redact(text: str) -> str:
    """Return the text without the logins of URLs in it."""
    return _SECRET.sub(r"\1...", _LOGIN.sub("//...@", text))


def open_store(
    url: str,
    *,
    prefix: str | None = None,
    schema: str | None = None,
    timeout: float = 4.0,
    must_exist: bool = False,
) -> StreamStore:
    """Return the store at a URL, not opened yet. It keeps whatever it finds, for any time and in any number.

    Args:
        url: `sqlite:///file`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`,
            `postgresql://`.
        prefix: what the names of keys or tables begin with; None: as the backend has it.
        schema: of PostgreSQL; None: as the backend has it.
        timeout: seconds that one call may take.
        must_exist: refuse a file that would have to be made.

    Raises:
        UsageError: no such URL.
        MissingError: the driver is not installed, or the file is not there.
    """
    scheme, mark, rest = url.partition(":")
    if scheme == "memory":
        raise UsageError("memory:// lives in one process, so the command would see nothing; a file is sqlite:///FILE")
    extra = SCHEMES.get(scheme) if mark else None
    if extra is None or not rest.startswith("//"):
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"not the URL of a store: {url!r:.200}; a file is sqlite:///FILE; known are {known}")
    if schema is not None and extra != "pg":
        raise UsageError("--schema is for PostgreSQL")
    options: dict[str, Any] = {"max_len": KEEP_ALL, "max_age": None}
    if prefix is not None:
        options["prefix" if extra == "redis" else "table_prefix"] = prefix
    if extra == "sqlite":
        where = _file_of(url, must_exist)
        options |= {"timeout": timeout, "key_window": KEEP_KEYS}
    else:
        _check_port(url)
        where = url
        options["timeout"] = timeout
    if extra == "pg":
        options |= {"key_window": KEEP_KEYS} | ({} if schema is None else {"schema": schema})
    store: StreamStore = _load(extra, scheme)(where, **options)
    return store


def file_of(url: str) -> Path | None:
    """Return the file that the URL of a store names, if it names one."""
    return Path(unquote(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None


def _file_of(url: str, must_exist: bool) -> str:
    file = file_of(url)
    if file is None or not file.name or "?" in url or "#" in url:
        raise UsageError(f"the URL of a file is sqlite:///FILE, or sqlite:////DIRECTORY/FILE: not {url!r:.200}")
    if must_exist and not file.exists():
        raise MissingError(f"there is no file {os.fspath(file)!r}: a push makes it; --store names another one")
    return os.fspath(file)


def _check_port(url: str) -> None:
    """Refuse a nonsense port here: the drivers would do so with errors of their own kinds."""
    if "," in url:  # several hosts
        return
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise UsageError(f"not the URL of a store: {url!r:.200}: {error}") from None


def _load(extra: str, scheme: str) -> Any:
    try:
        module = importlib.import_module(f"notify_{extra}")
    except ImportError as error:
        raise MissingError(f"{scheme}://: {error}") from error
    return getattr(module, NAMES[extra])
