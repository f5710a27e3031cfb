"""The kinds of parts that the suites are generic in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notify import PresenceTracker, Router, Store, StreamStore
from notify.inbox.abc import InboxStore

if TYPE_CHECKING:  # a default, so that `StoreSuite` alone means `StoreSuite[Store]`, is new in Python 3.13
    from typing_extensions import TypeVar

    StoreT = TypeVar("StoreT", bound=Store, default=Store)
    StreamStoreT = TypeVar("StreamStoreT", bound=StreamStore, default=StreamStore)
    InboxStoreT = TypeVar("InboxStoreT", bound=InboxStore, default=InboxStore)
    RouterT = TypeVar("RouterT", bound=Router, default=Router)
    PresenceT = TypeVar("PresenceT", bound=PresenceTracker, default=PresenceTracker)
else:
    from typing import TypeVar

    StoreT = TypeVar("StoreT", bound=Store)
    StreamStoreT = TypeVar("StreamStoreT", bound=StreamStore)
    InboxStoreT = TypeVar("InboxStoreT", bound=InboxStore)
    RouterT = TypeVar("RouterT", bound=Router)
    PresenceT = TypeVar("PresenceT", bound=PresenceTracker)
