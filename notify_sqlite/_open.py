"""The entry point of `notify.stores`: a store from a URL whose query may name its options."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from notify.adapters import StoreFactory
from notify.errors import UsageError

from ._stream_store import SQLiteStreamStore

_PREFIX: Final = "sqlite:///"


def _path_of(url: str) -> tuple[str]:
    """Return the path in a URL: what follows the third slash, so that an absolute path makes a fourth one.

    Raises:
        UsageError: not such a URL.
    """
    address, question, query = url.partition("?")
    if question:
        names = ", ".join(part.partition("=")[0] for part in query.split("&"))
        raise UsageError(f"SQLiteStreamStore has no option {names}; a question mark in a file name is written %3F")
    path = unquote(address[len(_PREFIX) :])
    if address[: len(_PREFIX)].lower() != _PREFIX or "#" in address or not path or path.endswith("/"):
        raise UsageError(f"a SQLite URL is sqlite:///FILE or sqlite:////DIRECTORY/FILE, got {url!r:.200}")
    return (path,)


open_store: Final = StoreFactory(SQLiteStreamStore, _path_of)
