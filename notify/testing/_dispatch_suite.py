"""The suite of a store of deliveries, put together."""

from __future__ import annotations

from notify.abc import Forget
from notify.dispatch.abc import DeliveryTracking, DigestStore, DispatchRecords, DispatchStore

from ._dispatch_base import DeliveryStore, DeliveryStoreT
from ._dispatch_claims import DispatchClaimTests
from ._dispatch_digests import DispatchDigestTests
from ._dispatch_moves import DispatchMoveTests
from ._dispatch_races import DispatchRaceTests
from ._dispatch_records import DispatchRecordTests
from ._dispatch_reports import DispatchReportTests
from ._dispatch_submit import DispatchSubmitTests
from ._suite import assert_tested, declared


class DispatchStoreSuite(
    DispatchSubmitTests[DeliveryStoreT],
    DispatchClaimTests[DeliveryStoreT],
    DispatchMoveTests[DeliveryStoreT],
    DispatchReportTests[DeliveryStoreT],
    DispatchRecordTests[DeliveryStoreT],
    DispatchDigestTests[DeliveryStoreT],
    DispatchRaceTests[DeliveryStoreT],
):
    """Every store of deliveries passes these tests, and those of the suites for its guarantees."""

    async def test_nothing_of_a_store_goes_untested(self, store: DeliveryStore) -> None:
        """The store has all interfaces that refer to deliveries; suites among the bases test what else it has."""
        for interface in (DispatchStore, DispatchRecords, DigestStore, DeliveryTracking):
            assert isinstance(store, interface), f"{type(store).__name__} lacks methods of {interface.__name__}"
        guarantees = declared(store, "durable", "shared")
        needed = {
            "DurableDispatchSuite": guarantees.durable,
            "SharedDispatchSuite": guarantees.shared,
            "DispatchForgetSuite": isinstance(store, Forget),
        }
        assert_tested(self, needed)
