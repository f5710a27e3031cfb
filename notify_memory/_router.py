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
        self._instances: dict[str, list[Deliver]] = {}  # several notifiers may have one name
        self._guard = LoopGuard(type(self).__name__)

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`. An instance that is not receiving misses nothing: it reads the log."""
        self._guard.check()
        instances = [*self._instances.values()] if to is None else [self._instances.get(to.instance_id, [])]
        for deliver in [each for delivers in instances for each in delivers]:
            deliver(event)

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """See `notify.abc.ReceivingRouter.receive`."""
        self._guard.check()
        delivers = self._instances.setdefault(instance_id, [])
        delivers.append(deliver)
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            delivers.remove(deliver)
            if not delivers:
                self._instances.pop(instance_id, None)
