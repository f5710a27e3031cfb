"""The entry points of `notify.stores`: a store from a URL whose query may name its options."""

from __future__ import annotations

from typing import Final

from notify.adapters import StoreFactory

from ._stream_store import RedisStreamStore

open_store: Final = StoreFactory(RedisStreamStore)
