"""Opens a store by URL, for the command line. A backend is imported only when its scheme is used."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from .. import open_store
from ..abc import StreamStore
from ..adapters import StoreFactory, store_factory
from ..errors import NotifyError, UsageError

DEFAULT: Final = "sqlite:///notify.db"
"""A file in the working directory."""

KEEP_ALL: Final = (1 << 31) - 1
"""`max_len` of the command's stores: it does not know the application's limits, so it must not remove anything."""

KEEP_KEYS: Final = 10 * 365 * 86_400.0
"""`key_window` in seconds, for backends that keep idempotency keys in a table: for the same reason."""

KEY_TABLES: Final = ("sqlite", "postgresql", "postgres")
"""The schemes of those backends."""

STORES: Final = "notify.stores"

DISPATCH_STORES: Final = "notify.dispatch_stores"
"""The groups of entry points that provide stores, and stores of deliveries."""

_LOGIN = re.compile(r"//\S*@")
_SECRET = re.compile(r"(password=)[^&\s'\"]+", re.IGNORECASE)


class MissingError(NotifyError):
    """A package is not installed, or there is no store yet."""


def missing_extra(command: str, extra: str, error: BaseException | None) -> MissingError:
    """Return the error for a command whose extra is not installed; `error` says what is missing."""
    return MissingError(f"{command} needs the extra {extra}: python -m pip install 'notify-streams[{extra}]' ({error})")


def redact(text: str) -> str:
    """Return the text with the user names and passwords of URLs removed."""
    return _SECRET.sub(r"\1...", _LOGIN.sub("//...@", text))


def open_by(url: str, *, prefix: str | None = None, schema: str | None = None, timeout: float = 4.0) -> StreamStore:
    """Return the store at a URL, not opened yet. Unless the URL says otherwise, it removes no events by itself.

    Args:
        url: as for `notify.open_store`.
        prefix: prefix of the names of keys or tables; None for the backend's default.
        schema: PostgreSQL schema; None for the backend's default.
        timeout: limit for one call, in seconds.

    Raises:
        UsageError: not a valid store URL.
        MissingError: the driver is not installed.
    """
    store: StreamStore = _open(url, STORES, prefix=prefix, schema=schema, timeout=timeout)
    return store


def open_dispatch_by(url: str, *, prefix: str | None = None, schema: str | None = None, timeout: float = 4.0) -> Any:
    """Return the store of deliveries at a URL, not opened yet; arguments and errors are those of `open_by`."""
    return _open(url, DISPATCH_STORES, prefix=prefix, schema=schema, timeout=timeout)


def _open(url: str, group: str, *, prefix: str | None, schema: str | None, timeout: float) -> Any:
    scheme = url.strip().partition(":")[0].lower()
    if scheme == "memory":
        raise UsageError(
            "memory:// exists inside one process only, so this command cannot reach it; use sqlite:///FILE"
        )
    try:
        factory = store_factory(url, group)
        names = _options_of(factory)
        if group == DISPATCH_STORES:
            url = _without(url, _options_of(store_factory(url)) - names)
        options = _defaults(url, names, timeout)
        if prefix is not None:
            named = [name for name in ("prefix", "table_prefix") if name in names]
            if not named:
                raise UsageError(f"--prefix does not apply to {scheme}://")
            options[named[0]] = prefix
        if schema is not None:
            if "schema" not in names:
                raise UsageError("--schema applies to PostgreSQL only")
            options["schema"] = schema
        return open_store(url, **options) if group == STORES else factory(url, **options)
    except ImportError as error:
        raise MissingError(f"{scheme}://: {error}") from error


def keeps_deliveries(url: str) -> bool:
    """Return whether a store of deliveries exists for the scheme of a URL."""
    scheme = url.strip().partition(":")[0].lower()
    return scheme in KEY_TABLES or bool(entry_points(group=DISPATCH_STORES, name=scheme))


def _without(url: str, names: frozenset[str]) -> str:
    """Return a URL without the options of these names: those of the log, such as `max_len`."""
    address, mark, query = url.partition("?")
    return address + mark + "&".join(each for each in query.split("&") if unquote(each.partition("=")[0]) not in names)


def import_backend(url: str) -> None:
    """Import what the URL needs, because that takes time which is not the store's. Errors are those of `open_by`."""
    with suppress(NotifyError, ImportError):
        store_factory(url)


def _defaults(url: str, names: frozenset[str], timeout: float) -> dict[str, Any]:
    """Return the options with which no event is removed, without those that the URL names."""
    defaults = {"max_len": KEEP_ALL, "max_age": None, "timeout": timeout}
    if url.strip().partition(":")[0].lower() in KEY_TABLES:
        defaults["key_window"] = KEEP_KEYS
    given = {unquote(part.partition("=")[0]) for part in url.partition("?")[2].split("&")}
    return {name: value for name, value in defaults.items() if name in names - given}


def _options_of(factory: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the options that a factory takes."""
    if isinstance(factory, StoreFactory):
        return factory.options
    parameters = inspect.signature(factory).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for any other URL."""
    prefix, url = "sqlite:///", url.strip()
    return Path(unquote(url[len(prefix) :].partition("?")[0])) if url.lower().startswith(prefix) else None


def is_missing(url: str) -> bool:
    """Return whether this is a SQLite file that does not exist."""
    file = file_of(url)
    return file is not None and not file.exists()


def check_file(url: str) -> None:
    """Check that there is a file to read; the driver would create it.

    Raises:
        MissingError: a SQLite file does not exist.
    """
    if is_missing(url):
        raise MissingError(nothing_at(url))


def nothing_at(url: str) -> str:
    """Say that a store was never prepared."""
    return f"there is nothing at {redact(url)} yet: a push or notify init creates it"


def check_directory(url: str) -> None:
    """Check that a file can appear.

    Raises:
        MissingError: its directory does not exist.
    """
    file = file_of(url)
    if file is not None and not file.parent.is_dir():
        raise MissingError(f"the directory {os.fspath(file.parent)!r} does not exist")
