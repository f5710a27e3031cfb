"""What authors of adapters import beside `notify.abc`; the library's own backends use nothing else.

| Need | Take |
|---|---|
| a store that streams | `LiveLog` |
| presence over a key-value store with expiry | `LeasedPresence` |
| presence over anything else that can hold a lease | `LeaseKeeper` |
| tasks that outlive a cancelled caller | `Background` |
| code of others whose CancelledError must not end the task | `without_stray_cancellation` |
| delays between attempts | `backoff` |
| two log lines for an outage | `OutageLog` |
| refuse another event loop, a fork, a closed part | `LoopGuard` |
| the exceptions of a driver | `DriverErrors` |
| a mistake in one's own code, told from an outage | `is_bug`, `report_bug` |
| options of a store | `Retention` |
| a store from a URL, for `open_store` | `StoreFactory` |
| the gap of a page | `Page.of`, or `continuity` |
| the next id of a log | `ids.following` |
| an event from a row | `build_event` |
| check a user id | `check_user` |
| the parts of a store URL, by the rules of all stores | `StoreUrl.parse` |
| a position in several logs, as text | `join_positions`, `split_positions` |
| a user id inside a key, subject or topic | `safe_name` |
"""

from ._open import store_factory as store_factory
from ._presence._lease_backend import LeaseBackend as LeaseBackend
from ._presence._lease_keeper import LeaseKeeper as LeaseKeeper
from ._presence._lease_keeper import LeaseRegistration as LeaseRegistration
from ._presence._leased_presence import LeasedPresence as LeasedPresence
from ._runtime._background import Background as Background
from ._runtime._background import without_stray_cancellation as without_stray_cancellation
from ._runtime._backoff import backoff as backoff
from ._runtime._driver_errors import DriverErrors as DriverErrors
from ._runtime._driver_errors import is_bug as is_bug
from ._runtime._driver_errors import report_bug as report_bug
from ._runtime._loop_guard import LoopGuard as LoopGuard
from ._runtime._outage_log import OutageLog as OutageLog
from ._runtime._retention import Retention as Retention
from ._runtime._store_factory import StoreFactory as StoreFactory
from ._runtime._urls import StoreUrl as StoreUrl
from ._stream._live import LiveLog as LiveLog
from ._stream._token import join_positions as join_positions
from ._stream._token import split_positions as split_positions
from .event import build_event as build_event
from .event import check_user as check_user
from .event import safe_name as safe_name
from .ids import continuity as continuity

__all__ = [
    "Background",
    "DriverErrors",
    "LeaseBackend",
    "LeaseKeeper",
    "LeaseRegistration",
    "LeasedPresence",
    "LiveLog",
    "LoopGuard",
    "OutageLog",
    "Retention",
    "StoreFactory",
    "StoreUrl",
    "backoff",
    "build_event",
    "check_user",
    "continuity",
    "is_bug",
    "join_positions",
    "report_bug",
    "safe_name",
    "split_positions",
    "store_factory",
    "without_stray_cancellation",
]
