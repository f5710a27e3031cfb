"""What tests of deliveries need: a clock that is set by hand, fakes, and the conformance suites.

To test a store of your own, subclass a suite, define how to make yours, and run pytest.

```python
class TestMyDispatchStore(DispatchStoreSuite[MyStore]):
    async def make(self) -> MyStore:
        return MyStore()
```

`DispatchStoreSuite` is for what keeps deliveries: `DispatchStore`, `DispatchRecords`, `DeliveryTracking` and
`DigestStore` of `notify.dispatch.abc`, which one store has to be, since their rows refer to each other. Further suites,
to be added to the bases of the same class, are for its guarantees and abilities: `DurableDispatchSuite`,
`SharedDispatchSuite`, `DispatchTransactionSuite`, `DispatchForgetSuite`. Where the clock of the store can be set,
override `let_pass`, and no test waits for leases.

`PreferenceStoreSuite`, `EndpointStoreSuite`, `CapStoreSuite` and `GateStoreSuite` are for the other interfaces, each of
which may be a store by itself; `UserForgetSuite` is for those that can erase a user. `ChannelSuite` and
`RemoteChannelSuite` are for channels. `RecordingChannel` stands in for one, `PushService` for the push service of a
browser, and `MailServer` for a mail server. Only the suites need pytest; they are imported when they are first asked
for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._clock import VirtualClock as VirtualClock
from ._mail_server import MailMessage as MailMessage
from ._mail_server import MailServer as MailServer
from ._missing import SUITES_NEED, requiring
from ._push_service import PushMessage as PushMessage
from ._push_service import PushReply as PushReply
from ._push_service import PushService as PushService
from ._push_service import PushSubscription as PushSubscription
from ._recording import RecordingChannel as RecordingChannel

if TYPE_CHECKING:
    from ._dispatch_caps import CapStoreSuite as CapStoreSuite
    from ._dispatch_caps import GateStoreSuite as GateStoreSuite
    from ._dispatch_channel import ChannelSuite as ChannelSuite
    from ._dispatch_channel import RemoteChannelSuite as RemoteChannelSuite
    from ._dispatch_features import DispatchTransactionSuite as DispatchTransactionSuite
    from ._dispatch_features import DurableDispatchSuite as DurableDispatchSuite
    from ._dispatch_features import SharedDispatchSuite as SharedDispatchSuite
    from ._dispatch_forget import DispatchForgetSuite as DispatchForgetSuite
    from ._dispatch_forget import UserForgetSuite as UserForgetSuite
    from ._dispatch_suite import DispatchStoreSuite as DispatchStoreSuite
    from ._dispatch_users import EndpointStoreSuite as EndpointStoreSuite
    from ._dispatch_users import PreferenceStoreSuite as PreferenceStoreSuite

_SUITES = {
    "CapStoreSuite": "_dispatch_caps",
    "ChannelSuite": "_dispatch_channel",
    "DispatchForgetSuite": "_dispatch_forget",
    "DispatchStoreSuite": "_dispatch_suite",
    "DispatchTransactionSuite": "_dispatch_features",
    "DurableDispatchSuite": "_dispatch_features",
    "EndpointStoreSuite": "_dispatch_users",
    "GateStoreSuite": "_dispatch_caps",
    "PreferenceStoreSuite": "_dispatch_users",
    "RemoteChannelSuite": "_dispatch_channel",
    "SharedDispatchSuite": "_dispatch_features",
    "UserForgetSuite": "_dispatch_forget",
}

__all__ = [
    "CapStoreSuite",
    "ChannelSuite",
    "DispatchForgetSuite",
    "DispatchStoreSuite",
    "DispatchTransactionSuite",
    "DurableDispatchSuite",
    "EndpointStoreSuite",
    "GateStoreSuite",
    "MailMessage",
    "MailServer",
    "PreferenceStoreSuite",
    "PushMessage",
    "PushReply",
    "PushService",
    "PushSubscription",
    "RecordingChannel",
    "RemoteChannelSuite",
    "SharedDispatchSuite",
    "UserForgetSuite",
    "VirtualClock",
]


def __getattr__(name: str) -> object:
    """Import a suite, and pytest with it, when it is first asked for."""
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with requiring(f"notify.testing.dispatch.{name}", SUITES_NEED):
        return getattr(import_module(f".{_SUITES[name]}", __package__), name)
