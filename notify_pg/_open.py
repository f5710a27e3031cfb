"""The entry points of `notify.stores` and `notify.dispatch_stores`: a store from a DSN whose query may name options."""

from __future__ import annotations

from typing import Final

from notify.adapters import StoreFactory

from ._dispatch import PostgresDispatchStore
from ._stream_store import PostgresStreamStore

open_store: Final = StoreFactory(PostgresStreamStore)

open_dispatch_store: Final = StoreFactory(PostgresDispatchStore)
