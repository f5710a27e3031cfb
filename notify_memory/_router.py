"""A router between the notifiers of one process."""

from __future__ import annotations

from typing import ClassVar

import anyio
from anyio.abc import TaskStatus

from notify import Event, Guarantees, RoutingInfo
from notify.abc import Deliver
from notify.adapters import LoopGuard


class MemoryRouter:
    """Passes events from one notifier to the others that were given the same router."""

    guarantees: ClassVar = Guarantees()

    def __init__(self) -> None:
        self._instances: dict[str, Deliver] = {}
        self._guard = LoopGuard(type(self).__name__)

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`. An instance that is not receiving misses nothing: it reads the log."""
        self._guard.check()
        if to is None:
            for deliver in list(self._instances.values()):
                deliver(event)
        elif to.instance_id in self._instances:
            self._instances[to.instance_id](event)

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """See `notify.abc.ReceivingRouter.receive`."""
        self._guard.check()
        self._instances[instance_id] = deliver
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            # A new notifier may have taken over the instance id before this one has ended.
            if self._instances.get(instance_id) is deliver:  # pragma: no branch - CPython 3.11 does not trace the else
                del self._instances[instance_id]
