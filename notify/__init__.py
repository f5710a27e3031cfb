"""Real-time notifications to users: a log per user, and streams that resume without gap or duplicate.

```python
notifier = Notifier(store=MemoryStore())
await notifier.push("alice", "comment.created", {"post": 7})
async for event in notifier.subscribe("alice", last_id):
    ...
```
"""

from . import abc as abc
from . import errors as errors
from . import ids as ids
from ._notifier import Notifier as Notifier
from ._open import open_store as open_store
from ._runtime._background import Background as Background
from ._runtime._results import Health as Health
from ._runtime._results import PushReport as PushReport
from ._runtime._stats import Statistics as Statistics
from ._stream._live import LiveLog as LiveLog
from ._version import __version__ as __version__
from .abc import Gap as Gap
from .abc import GapReason as GapReason
from .abc import Guarantees as Guarantees
from .abc import MergedStream as MergedStream
from .abc import Page as Page
from .abc import Position as Position
from .abc import PresenceTracker as PresenceTracker
from .abc import Router as Router
from .abc import RoutingInfo as RoutingInfo
from .abc import Store as Store
from .abc import Stream as Stream
from .abc import StreamStore as StreamStore
from .errors import BackendError as BackendError
from .errors import BackendUnavailableError as BackendUnavailableError
from .errors import ClosedError as ClosedError
from .errors import CodecError as CodecError
from .errors import DisconnectedError as DisconnectedError
from .errors import InvalidEventError as InvalidEventError
from .errors import InvalidEventIdError as InvalidEventIdError
from .errors import NotifyError as NotifyError
from .errors import OverloadedError as OverloadedError
from .errors import PayloadTooLargeError as PayloadTooLargeError
from .errors import PushRejectedError as PushRejectedError
from .errors import PushUncertainError as PushUncertainError
from .errors import SlowConsumerError as SlowConsumerError
from .errors import UsageError as UsageError
from .event import Event as Event
from .ids import continuity as continuity

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "Background",
    "ClosedError",
    "CodecError",
    "DisconnectedError",
    "Event",
    "Gap",
    "GapReason",
    "Guarantees",
    "Health",
    "InvalidEventError",
    "InvalidEventIdError",
    "LiveLog",
    "MergedStream",
    "Notifier",
    "NotifyError",
    "OverloadedError",
    "Page",
    "PayloadTooLargeError",
    "Position",
    "PresenceTracker",
    "PushRejectedError",
    "PushReport",
    "PushUncertainError",
    "Router",
    "RoutingInfo",
    "SlowConsumerError",
    "Statistics",
    "Store",
    "Stream",
    "StreamStore",
    "UsageError",
    "__version__",
    "abc",
    "continuity",
    "errors",
    "ids",
    "open_store",
]
