"""What the suites of routers share: instances that learn of each other's events by the router alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest
from anyio.abc import TaskStatus

from notify import Event, Notifier, Router, RoutingInfo, Store, Stream
from notify.abc import Deliver, ReceivingRouter

from ._parts import ListStore
from ._suite import Suite
from ._types import RouterT
from ._waits import one


class RouterTests(Suite[RouterT]):
    """The router under test, and what the tests do with it.

    Attributes:
        start_within: seconds within which `receive` has called `task_status.started()`.
    """

    start_within: ClassVar[float] = 5.0
    _metadata: Mapping[str, Mapping[str, str]] = {}

    async def another(self, router: RouterT) -> RouterT:
        """Return the router of one more instance: by default the same object, which then serves them all.

        Override it where each instance has a router object of its own, as every instance has in another process.
        """
        return router

    def connect(self, router: RouterT, notifier: Notifier) -> None:
        """Make the router bring events to this notifier: nothing to do where it implements `receive`."""

    def metadata(self, router: RouterT, name: str) -> Mapping[str, str]:
        """Return the `metadata` of the notifier with this name and router: its address, where routes go by that."""
        return {}

    async def garbage(self, router: RouterT) -> None:
        """Put bytes that are not an event where `receive` gets its events: those of an instance named `"a"`.

        A router with `receive` has to define it, with an empty body if nothing but events can get there.
        """

    @pytest.fixture
    async def router(self, anyio_backend: object) -> AsyncIterator[RouterT]:
        """Make a router for one test, and close it."""
        async with self.fresh() as router:
            yield router

    @asynccontextmanager
    async def instance(self, router: RouterT, name: str, store: Store | None = None) -> AsyncIterator[Notifier]:
        """Run a notifier that learns of other instances' events by its router alone."""
        own = await self.another(router)
        async with AsyncExitStack() as stack:
            if own is not router:
                await stack.enter_async_context(self.closing(own))
            self._metadata = {**self._metadata, name: self.metadata(own, name)}
            watched = Watched(own) if isinstance(own, ReceivingRouter) else None
            notifier = Notifier(
                store,
                router=watched or own,
                instance_id=name,
                metadata=self._metadata[name],
                buffer_size=1000,
                poll_interval=3600,
                audit_interval=3600,
            )
            self.connect(own, notifier)
            stack.push_async_callback(notifier.aclose)
            with anyio.move_on_after(self.start_within):
                await notifier.__aenter__()
                if watched is not None:
                    await watched.started.wait()
            if watched is not None:
                watched.assert_started(self.start_within)
            yield notifier

    @asynccontextmanager
    async def instances(
        self, router: RouterT, *names: str, user: str = "alice", store: Store | None = None
    ) -> AsyncIterator[tuple[dict[str, Notifier], dict[str, Stream]]]:
        """Run several instances, each with an open stream of the user."""
        async with AsyncExitStack() as stack:
            notifiers = {name: await stack.enter_async_context(self.instance(router, name, store)) for name in names}
            streams = {name: await stack.enter_async_context(n.subscribe(user)) for name, n in notifiers.items()}
            yield notifiers, streams

    def to(self, name: str) -> RoutingInfo:
        """Return where an instance of this test is, as presence would."""
        return RoutingInfo(name, self._metadata.get(name, {}))

    async def assert_nothing_else(self, router: Router, streams: Mapping[str, Stream]) -> None:
        """Assert that the next event for every instance is the next one that each stream yields."""
        for stream in streams.values():
            event = Event(stream.user, "sentinel")
            await router.route(event, None)
            assert (await one(stream, self.patience)).type == "sentinel"

    def store(self) -> Store:
        """Return a store for the notifiers of a test, which no event reaches but by a push."""
        return ListStore()


class Watched:
    """A router with `receive`, and whether that has said that it is ready."""

    def __init__(self, router: ReceivingRouter) -> None:
        self._router = router
        self.started = anyio.Event()
        self._error: Exception | None = None
        self.route = router.route

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the router has."""
        return getattr(self._router, name)

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """Run the router's own, and note that it is ready or why it is not."""
        try:
            await self._router.receive(instance_id, deliver, task_status=_Noted(task_status, self.started))
        except Exception as error:
            self._error = error
            raise

    def assert_started(self, seconds: float) -> None:
        """Assert that `receive` is ready, after so long."""
        assert self.started.is_set() or self._error is None, f"receive() raised before it was ready: {self._error!r}"
        assert self.started.is_set(), f"receive() has not called task_status.started() within {seconds:g} s"


class _Noted:
    """A task status that also sets an event."""

    def __init__(self, inner: TaskStatus[None], noted: anyio.Event) -> None:
        self._inner = inner
        self._noted = noted

    def started(self, value: None = None) -> None:
        """Note that the router is ready."""
        self._noted.set()
        self._inner.started(value)
