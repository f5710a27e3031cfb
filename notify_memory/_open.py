"""The entry point of `notify.stores`: a memory store from a URL whose query may name its options."""

from __future__ import annotations

from typing import Final

from notify.adapters import StoreFactory
from notify.errors import UsageError

from ._stream_store import MemoryStreamStore


def _no_address(url: str) -> tuple[()]:
    if url.lower() != "memory://":
        raise UsageError(f"a memory store has no address, so its URL is memory://, got {url!r:.200}")
    return ()


open_store: Final = StoreFactory(MemoryStreamStore, _no_address)
