"""The conformance suite for stores: subclass it, say how to make yours, and run pytest.

```python
class TestMyStore(StoreSuite):
    async def make(self) -> Store:
        return MyStore()
```

For what a store can or promises beyond the interface there are further suites, to be added to the bases of the same
class: `SaveManySuite`, `ReadManySuite` and `ImmediateStoreSuite` for its abilities, `DurableStoreSuite` and
`SharedStoreSuite` for its guarantees, `BoundedStoreSuite`, `AgingStoreSuite` and `ClockedStoreSuite` for its options.
Each says by its abstract methods what more it needs to know. What the store has and no base tests is a failure.
"""

from __future__ import annotations

from notify import Guarantees, Store, StreamStore
from notify.abc import Immediate, ReadMany, SaveMany

from ._store_abilities import ImmediateStoreSuite as ImmediateStoreSuite
from ._store_abilities import ReadManySuite as ReadManySuite
from ._store_abilities import SaveManySuite as SaveManySuite
from ._store_features import AgingStoreSuite as AgingStoreSuite
from ._store_features import BoundedStoreSuite as BoundedStoreSuite
from ._store_features import ClockedStoreSuite as ClockedStoreSuite
from ._store_features import DurableStoreSuite as DurableStoreSuite
from ._store_features import SharedStoreSuite as SharedStoreSuite
from ._store_gaps import GapTests
from ._store_logs import LogTests
from ._store_saves import SaveTests
from ._suite import assert_tested

__all__ = [
    "AgingStoreSuite",
    "BoundedStoreSuite",
    "ClockedStoreSuite",
    "DurableStoreSuite",
    "ImmediateStoreSuite",
    "ReadManySuite",
    "SaveManySuite",
    "SharedStoreSuite",
    "StoreSuite",
]


class StoreSuite(LogTests, GapTests, SaveTests):
    """Every store passes these tests, and those of the suites for what else it can."""

    async def test_nothing_goes_untested(self, store: Store) -> None:
        """Each ability and guarantee of the store is tested by a suite among the bases of the test class."""
        guarantees = getattr(store, "guarantees", Guarantees())
        streams = isinstance(store, StreamStore)
        needed = {
            "SaveManySuite": isinstance(store, SaveMany),
            "ReadManySuite": isinstance(store, ReadMany),
            "ImmediateStoreSuite": isinstance(store, Immediate),
            "DurableStoreSuite": guarantees.durable,
            "SharedStoreSuite": guarantees.shared,
            "StreamStoreSuite": streams,
            "SharedStreamStoreSuite": streams and guarantees.shared,
        }
        assert_tested(self, needed)
