"""The conformance suite for stores: subclass it, define how to make yours, and run pytest.

```python
class TestMyStore(StoreSuite[MyStore]):
    async def make(self) -> MyStore:
        return MyStore()
```

What a store can do or promises beyond the interface has further suites, to be added to the bases of the same class:
`SaveManySuite`, `SaveSoonSuite`, `SaveInTransactionSuite`, `ReadManySuite`, `ImmediateStoreSuite`, `ForgetSuite`,
`PrepareSuite`, `EphemeralsSuite` and `LivenessSuite` for its abilities, `DurableStoreSuite` and `SharedStoreSuite` for
its guarantees, `BoundedStoreSuite`, `AgingStoreSuite` and `ClockedStoreSuite` for its options, `StoreOutageSuite` for a
server that goes away. The abstract methods of each are the hooks that it needs. An ability or guarantee of the store
that no base tests is a failure.
"""

from __future__ import annotations

from notify import Store, StreamStore
from notify.abc import Ephemerals, Forget, Immediate, Liveness, Prepare, ReadMany, SaveInTransaction, SaveMany, SaveSoon

from ._store_abilities import ImmediateStoreSuite as ImmediateStoreSuite
from ._store_abilities import ReadManySuite as ReadManySuite
from ._store_abilities import SaveManySuite as SaveManySuite
from ._store_features import AgingStoreSuite as AgingStoreSuite
from ._store_features import BoundedStoreSuite as BoundedStoreSuite
from ._store_features import ClockedStoreSuite as ClockedStoreSuite
from ._store_features import DurableStoreSuite as DurableStoreSuite
from ._store_features import SharedStoreSuite as SharedStoreSuite
from ._store_forget import ForgetSuite as ForgetSuite
from ._store_forget import PrepareSuite as PrepareSuite
from ._store_gaps import GapTests
from ._store_logs import LogTests
from ._store_merged import MergedLogTests
from ._store_order import OrderTests
from ._store_saves import SaveTests
from ._store_saving import SaveInTransactionSuite as SaveInTransactionSuite
from ._store_saving import SaveSoonSuite as SaveSoonSuite
from ._suite import assert_tested, declared
from ._types import StoreT

__all__ = [
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
]


class StoreSuite(LogTests[StoreT], GapTests[StoreT], SaveTests[StoreT], OrderTests[StoreT], MergedLogTests[StoreT]):
    """Every store passes these tests, and those of the suites for its abilities and guarantees."""

    async def test_nothing_goes_untested(self, store: Store) -> None:
        """The store declares its guarantees; each of them and each ability is tested by a suite among the bases."""
        guarantees = declared(store, "durable", "shared")
        streams = isinstance(store, StreamStore)
        needed = {
            "SaveManySuite": isinstance(store, SaveMany),
            "SaveSoonSuite": isinstance(store, SaveSoon),
            "SaveInTransactionSuite": isinstance(store, SaveInTransaction),
            "ReadManySuite": isinstance(store, ReadMany),
            "ForgetSuite": isinstance(store, Forget),
            "PrepareSuite": isinstance(store, Prepare),
            "EphemeralsSuite": isinstance(store, Ephemerals),
            "ImmediateStoreSuite": isinstance(store, Immediate),
            "DurableStoreSuite": guarantees.durable,
            "SharedStoreSuite": guarantees.shared,
            "StreamStoreSuite": streams,
            "SharedStreamStoreSuite": streams and guarantees.shared,
            "LivenessSuite": isinstance(store, Liveness),
        }
        assert_tested(self, needed)
