"""The entry points of `notify.stores` and `notify.dispatch_stores`: a store from a URL whose query may name options."""

from __future__ import annotations

from typing import Final

from notify.adapters import StoreFactory, StoreUrl
from notify.errors import UsageError

from ._dispatch import SQLiteDispatchStore
from ._stream_store import SQLiteStreamStore


def _path_of(url: str) -> tuple[str]:
    """Return the path in a URL: what follows the third slash, so that an absolute path makes a fourth one.

    Raises:
        UsageError: not such a URL.
    """
    parts = StoreUrl.parse(url)
    if parts.options:
        names = ", ".join(parts.options)
        raise UsageError(f"SQLiteStreamStore has no option {names}; a question mark in a file name is written %3F")
    if parts.hosts or parts.username or not parts.path or parts.path.endswith("/"):
        raise UsageError("a SQLite URL has no host: it is sqlite:///FILE or sqlite:////DIRECTORY/FILE")
    return (parts.path,)


open_store: Final = StoreFactory(SQLiteStreamStore, _path_of)

open_dispatch_store: Final = StoreFactory(SQLiteDispatchStore, _path_of)
