"""Shipped tools for tests: a history checker, a fault proxy, and conformance suites for adapters.

Only the suites need pytest; they are imported when they are first asked for, and everything else works without it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from ._missing import SUITES_NEED, requiring
from .faults import FaultProxy as FaultProxy
from .faults import Faults as Faults
from .history import History as History
from .history import Verdict as Verdict

if TYPE_CHECKING:
    from .inbox import DurableInboxSuite as DurableInboxSuite
    from .inbox import ForgetInboxSuite as ForgetInboxSuite
    from .inbox import InboxStoreSuite as InboxStoreSuite
    from .inbox import InboxTransactionSuite as InboxTransactionSuite
    from .inbox import LosingInboxSuite as LosingInboxSuite
    from .inbox import SharedInboxSuite as SharedInboxSuite
    from .outage import BehindFaultProxy as BehindFaultProxy
    from .outage import OutageSuite as OutageSuite
    from .outage import PresenceOutageSuite as PresenceOutageSuite
    from .outage import RouterOutageSuite as RouterOutageSuite
    from .outage import StoreOutageSuite as StoreOutageSuite
    from .outage import StreamStoreOutageSuite as StreamStoreOutageSuite
    from .presence import ImmediatePresenceSuite as ImmediatePresenceSuite
    from .presence import LeasedPresenceSuite as LeasedPresenceSuite
    from .presence import PresenceSuite as PresenceSuite
    from .presence import SharedPresenceSuite as SharedPresenceSuite
    from .router import RouterSuite as RouterSuite
    from .store import AgingStoreSuite as AgingStoreSuite
    from .store import BoundedStoreSuite as BoundedStoreSuite
    from .store import ClockedStoreSuite as ClockedStoreSuite
    from .store import DurableStoreSuite as DurableStoreSuite
    from .store import ForgetSuite as ForgetSuite
    from .store import ImmediateStoreSuite as ImmediateStoreSuite
    from .store import PrepareSuite as PrepareSuite
    from .store import ReadManySuite as ReadManySuite
    from .store import SaveInTransactionSuite as SaveInTransactionSuite
    from .store import SaveManySuite as SaveManySuite
    from .store import SaveSoonSuite as SaveSoonSuite
    from .store import SharedStoreSuite as SharedStoreSuite
    from .store import StoreSuite as StoreSuite
    from .stream_store import EphemeralsSuite as EphemeralsSuite
    from .stream_store import LivenessSuite as LivenessSuite
    from .stream_store import SharedStreamStoreSuite as SharedStreamStoreSuite
    from .stream_store import StreamStoreSuite as StreamStoreSuite

_SUITES = {
    "inbox": [
        "DurableInboxSuite",
        "ForgetInboxSuite",
        "InboxStoreSuite",
        "InboxTransactionSuite",
        "LosingInboxSuite",
        "SharedInboxSuite",
    ],
    "outage": [
        "BehindFaultProxy",
        "OutageSuite",
        "PresenceOutageSuite",
        "RouterOutageSuite",
        "StoreOutageSuite",
        "StreamStoreOutageSuite",
    ],
    "presence": [
        "ImmediatePresenceSuite",
        "LeasedPresenceSuite",
        "PresenceSuite",
        "SharedPresenceSuite",
    ],
    "router": [
        "RouterSuite",
    ],
    "store": [
        "AgingStoreSuite",
        "BoundedStoreSuite",
        "ClockedStoreSuite",
        "DurableStoreSuite",
        "ForgetSuite",
        "ImmediateStoreSuite",
        "PrepareSuite",
        "ReadManySuite",
        "SaveInTransactionSuite",
        "SaveManySuite",
        "SaveSoonSuite",
        "SharedStoreSuite",
        "StoreSuite",
    ],
    "stream_store": [
        "EphemeralsSuite",
        "LivenessSuite",
        "SharedStreamStoreSuite",
        "StreamStoreSuite",
    ],
}

__all__ = [
    "AgingStoreSuite",
    "BehindFaultProxy",
    "BoundedStoreSuite",
    "ClockedStoreSuite",
    "DurableInboxSuite",
    "DurableStoreSuite",
    "EphemeralsSuite",
    "FaultProxy",
    "Faults",
    "ForgetInboxSuite",
    "ForgetSuite",
    "History",
    "ImmediatePresenceSuite",
    "ImmediateStoreSuite",
    "InboxStoreSuite",
    "InboxTransactionSuite",
    "LeasedPresenceSuite",
    "LivenessSuite",
    "LosingInboxSuite",
    "OutageSuite",
    "PrepareSuite",
    "PresenceOutageSuite",
    "PresenceSuite",
    "ReadManySuite",
    "RouterOutageSuite",
    "RouterSuite",
    "SaveInTransactionSuite",
    "SaveManySuite",
    "SaveSoonSuite",
    "SharedInboxSuite",
    "SharedPresenceSuite",
    "SharedStoreSuite",
    "SharedStreamStoreSuite",
    "StoreOutageSuite",
    "StoreSuite",
    "StreamStoreOutageSuite",
    "StreamStoreSuite",
    "Verdict",
]

_WITH_ASSERTS = (
    *("_suite", "_waits", "_store_abilities", "_store_base", "_store_features", "_store_forget", "_store_gaps"),
    *("_store_logs", "_store_saves", "_store_saving", "_stream_base", "_stream_ephemerals", "_stream_lifetime"),
    *("_stream_notifier", "_stream_positions", "_router_base", "_presence_base", "_presence_features"),
    *("_outage_base", "_outage_stores", "_inbox_base", "_inbox_items", "_inbox_marks"),
    *("_inbox_pages", "_inbox_due", "_inbox_topics", "_inbox_merge", "_inbox_races", "_inbox_features", *_SUITES),
    *(
        "_dispatch_base",
        "_dispatch_caps",
        "_dispatch_channel",
        "_dispatch_claims",
        "_dispatch_digests",
        "_dispatch_features",
    ),
    *("_dispatch_moves", "_dispatch_races", "_dispatch_records", "_dispatch_reports", "_dispatch_submit"),
    *("_dispatch_suite", "_dispatch_users"),
)

_pytest = sys.modules.get("pytest")
if _pytest is not None:  # a failing assertion then shows its values, as in a test module
    _pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _WITH_ASSERTS))


def __getattr__(name: str) -> object:
    """Import a suite, and pytest with it, when it is first asked for."""
    for module, suites in _SUITES.items():
        if name in suites:
            with requiring(f"notify.testing.{name}", SUITES_NEED):
                return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
