"""The conformance suite for inbox stores: subclass it, define how to make yours, and run pytest.

```python
class TestMyInboxStore(InboxStoreSuite[MyStore]):
    async def make(self) -> MyStore:
        return MyStore()
```

It tests what `notify.inbox.abc.InboxStore` adds to a store; `StoreSuite` tests the store. Further suites, to be added
to the bases of the same class, are for what the store can do or promises beyond that: `DurableInboxSuite` and
`SharedInboxSuite` for its guarantees, `InboxTransactionSuite` and `ForgetInboxSuite` for its abilities. Their hooks are
those of the suites for stores. `LosingInboxSuite` is for a store whose log and inbox can be lost separately.
"""

from __future__ import annotations

from notify.abc import Forget, SaveInTransaction
from notify.inbox import InboxRetention, InboxStore

from ._inbox_due import InboxDueTests
from ._inbox_features import DurableInboxSuite as DurableInboxSuite
from ._inbox_features import ForgetInboxSuite as ForgetInboxSuite
from ._inbox_features import InboxTransactionSuite as InboxTransactionSuite
from ._inbox_features import LosingInboxSuite as LosingInboxSuite
from ._inbox_features import SharedInboxSuite as SharedInboxSuite
from ._inbox_items import InboxItemTests
from ._inbox_marks import InboxMarkTests
from ._inbox_merge import InboxMergeTests
from ._inbox_pages import InboxPageTests
from ._inbox_races import InboxRaceTests
from ._inbox_topics import InboxTopicTests
from ._suite import assert_tested, declared
from ._types import InboxStoreT

__all__ = [
    "DurableInboxSuite",
    "ForgetInboxSuite",
    "InboxStoreSuite",
    "InboxTransactionSuite",
    "LosingInboxSuite",
    "SharedInboxSuite",
]


class InboxStoreSuite(
    InboxItemTests[InboxStoreT],
    InboxMarkTests[InboxStoreT],
    InboxPageTests[InboxStoreT],
    InboxDueTests[InboxStoreT],
    InboxTopicTests[InboxStoreT],
    InboxMergeTests[InboxStoreT],
    InboxRaceTests[InboxStoreT],
):
    """Every inbox store passes these tests, and those of the suites for its abilities and guarantees."""

    async def test_nothing_of_an_inbox_goes_untested(self, store: InboxStore) -> None:
        """The store is an `InboxStore` with the default retention; suites among the bases test what else it has."""
        assert isinstance(store, InboxStore)
        assert store.inbox_retention == InboxRetention()
        guarantees = declared(store, "durable", "shared")
        needed = {
            "DurableInboxSuite": guarantees.durable,
            "SharedInboxSuite": guarantees.shared,
            "InboxTransactionSuite": isinstance(store, SaveInTransaction),
            "ForgetInboxSuite": isinstance(store, Forget),
        }
        assert_tested(self, needed)
