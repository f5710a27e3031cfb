"""Opens a store by URL, for the command line. A backend is imported only when its scheme is used."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from ..abc import StreamStore
from ..adapters import StoreUrl
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
"""URL scheme to the extra that it needs; the package is called `notify_<extra>`."""

NAMES: Final = {"sqlite": "SQLiteStreamStore", "redis": "RedisStreamStore", "pg": "PostgresStreamStore"}

KEEP_ALL: Final = (1 << 31) - 1
"""`max_len` of the command's stores: it does not know the application's limits, so it must not remove anything."""

KEEP_KEYS: Final = 10 * 365 * 86_400.0
"""`key_window` in seconds, for backends that keep idempotency keys in a table: for the same reason."""

_LOGIN = re.compile(r"//\S*@")
_SECRET = re.compile(r"(password=)[^&\s'\"]+", re.IGNORECASE)


class MissingError(NotifyError):
    """The driver is not installed, or the file does not exist."""


def redact(text: str) -> str:
    """Return the text with the user names and passwords of URLs removed."""
    return _SECRET.sub(r"\1...", _LOGIN.sub("//...@", text))


def open_store(
    url: str,
    *,
    prefix: str | None = None,
    schema: str | None = None,
    timeout: float = 4.0,
    must_exist: bool = False,
) -> StreamStore:
    """Return the store at a URL, not opened yet. It is configured to remove no events by itself.

    Args:
        url: `sqlite:///file`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`,
            `postgresql://`.
        prefix: prefix of the names of keys or tables; None for the backend's default.
        schema: PostgreSQL schema; None for the backend's default.
        timeout: limit for one call, in seconds.
        must_exist: raise if a SQLite file does not exist.

    Raises:
        UsageError: not a valid store URL.
        MissingError: the driver is not installed, or the file does not exist.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory":
        raise UsageError(
            "memory:// exists inside one process only, so this command cannot reach it; use sqlite:///FILE"
        )
    extra = SCHEMES.get(scheme) if colon else None
    if extra is None or not rest.startswith("//"):
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"not a store URL: {url!r:.200}; use sqlite:///FILE for a file; supported schemes: {known}")
    if schema is not None and extra != "pg":
        raise UsageError("--schema applies to PostgreSQL only")
    options: dict[str, Any] = {"max_len": KEEP_ALL, "max_age": None}
    if prefix is not None:
        options["prefix" if extra == "redis" else "table_prefix"] = prefix
    if extra == "sqlite":
        address = _file_of(url, must_exist)
        options |= {"timeout": timeout, "key_window": KEEP_KEYS}
    else:
        _check(url)
        address = url
        options["timeout"] = timeout
    if extra == "pg":
        options |= {"key_window": KEEP_KEYS} | ({} if schema is None else {"schema": schema})
    store: StreamStore = _load(extra, scheme)(address, **options)
    return store


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for any other URL."""
    return Path(unquote(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None


def _file_of(url: str, must_exist: bool) -> str:
    file = file_of(url)
    if file is None or not file.name or "?" in url or "#" in url:
        raise UsageError(f"a SQLite URL is sqlite:///FILE or sqlite:////DIRECTORY/FILE, got {url!r:.200}")
    if must_exist and not file.exists():
        raise MissingError(f"file not found: {os.fspath(file)!r}; a push creates it, --store selects another store")
    return os.fspath(file)


def _check(url: str) -> None:
    """Refuse a malformed URL here, because each driver reports it with its own exception."""
    StoreUrl.parse(url)


def _load(extra: str, scheme: str) -> Any:
    try:
        module = importlib.import_module(f"notify_{extra}")
    except ImportError as error:
        raise MissingError(f"{scheme}://: {error}") from error
    return getattr(module, NAMES[extra])
