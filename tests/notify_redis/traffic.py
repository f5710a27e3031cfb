"""Pushes and readers under way while something breaks, all of it recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import anyio

from notify import BackendError, Notifier, RoutingInfo, StreamStore
from notify.testing import History
from tests.parts import until

__all__ = ["RoutingInfo", "Traffic", "traffic"]


class Traffic:
    """Pushers and readers of a few users.

    Attributes:
        history: what happened.
        outcomes: the name of each push's outcome, in the order in which they came.
        gaps: reasons, in the order in which readers met them.
    """

    def __init__(self, users: Sequence[str]) -> None:
        self.users = users
        self.history = History()
        self.outcomes: list[str] = []
        self.gaps: list[str] = []
        self.numbers = count()
        self.pushing = True
        self.acked: dict[str, str] = {}
        self.seen: dict[str, str] = {}

    @property
    def stored(self) -> int:
        return self.outcomes.count("ok")

    async def push(self, notifier: Notifier, user: str) -> None:
        """Push again and again until `pushing` ends."""
        while self.pushing:
            value = next(self.numbers)
            try:
                with self.history.pushing(user, value) as attempt:
                    event = await notifier.push(user, "t", value)
                    assert event is not None
                    attempt.ok(event.id)
                    self.acked[user] = event.id
                    self.outcomes.append("ok")
            except BackendError as error:
                self.outcomes.append(type(error).__name__)
            await anyio.sleep(0.001)

    async def read(self, notifier: Notifier, user: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with notifier.subscribe(user, "0", signals=True) as stream:
            reader = self.history.reader(user, "0")
            task_status.started()
            async for event in stream:
                if event.type == "notify.gap":
                    reader.gap(event.payload["reason"], event.payload["from"], event.payload["to"])
                    self.gaps.append(event.payload["reason"])
                elif event.type != "notify.sync":
                    reader.event(event, event.payload)
                self.seen[user] = stream.last_id

    async def settle(self, within: float) -> None:
        """End the pushing and wait until every reader has got everything that was acknowledged."""
        self.pushing = False
        await until(lambda: all(self.seen.get(user) == head for user, head in self.acked.items()), within)


@asynccontextmanager
async def traffic(
    here: StreamStore, there: StreamStore | None = None, *, users: Sequence[str] = ("alice", "bob", "carol")
) -> AsyncIterator[Traffic]:
    """Push through one store and read through another one (or the same), each in a notifier."""
    load = Traffic(users)
    # Neither notifier looks for news by itself within the test: what arrives was announced, or the store looked.
    options = {"poll_interval": 3600.0, "audit_interval": 3600.0, "timeout": 10.0}
    async with (
        Notifier(here, **options) as pusher,
        Notifier(there or here, **options) as notifier,
        anyio.create_task_group() as tasks,
    ):
        for user in users:
            await tasks.start(load.read, notifier, user)
            tasks.start_soon(load.push, pusher, user)
        await until(lambda: load.stored > 20)
        try:
            yield load
        finally:
            load.pushing = False
            tasks.cancel_scope.cancel()
