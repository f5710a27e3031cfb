"""The entry points of `notify.stores`: a store from a DSN whose query may name its options."""

from __future__ import annotations

from typing import Final

from notify.adapters import StoreFactory

from ._stream_store import PostgresStreamStore

open_store: Final = StoreFactory(PostgresStreamStore)
