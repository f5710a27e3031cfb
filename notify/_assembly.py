"""Puts the parts of a notifier together: which ability of the store is used for what, and which tasks run when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, Literal

from ._presence._local_presence import LocalPresence
from ._push._fan_out import FanOut
from ._push._gate import Gate
from ._push._locator import Locator
from ._push._namesakes import Namesakes
from ._push._pipeline import Pipeline
from ._push._receivers import Receivers, RouteReceiver
from ._push._routes import Routes
from ._push._writer import Writer
from ._runtime._background import Background
from ._runtime._options import check_parts, check_positive, check_whole
from ._runtime._stats import Counters
from ._runtime._telemetry import Telemetry
from ._stream._expiry import Expiry
from ._stream._live import LiveLog
from ._stream._stream_set import RANKS, NotifierStreams
from .abc import (
    Deliver,
    Ephemerals,
    HasOutbox,
    Immediate,
    Liveness,
    PresenceTracker,
    ReceivingRouter,
    Router,
    RoutingInfo,
    SaveInTransaction,
    Store,
    StreamStore,
    ability,
)
from .errors import UsageError

logger = logging.getLogger("notify")

_GRACE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a notifier that are not parts; see `Notifier`.

    Raises:
        UsageError: a value is unacceptable.
    """

    offline: Literal["store", "drop"]
    buffer_size: int
    poll_interval: float
    audit_interval: float
    linger: float
    max_payload: int
    max_pending: int
    timeout: float
    dumps: Callable[[Any], bytes | str] | None

    def __post_init__(self) -> None:
        """Check every value."""
        check_whole(buffer_size=self.buffer_size, max_payload=self.max_payload, max_pending=self.max_pending)
        check_positive(poll_interval=self.poll_interval, audit_interval=self.audit_interval, timeout=self.timeout)
        if self.offline not in ("store", "drop"):
            raise UsageError(f'offline must be "store" or "drop", not {self.offline!r}')
        linger: object = self.linger  # untyped code may pass anything
        dumps: object = self.dumps
        if not isinstance(linger, int | float) or not linger >= 0:
            raise UsageError(f"linger must be a number of seconds, and not negative: {linger!r:.80}")
        if dumps is not None and (not callable(dumps) or iscoroutinefunction(dumps)):
            raise UsageError(f"dumps= must be a plain function from a payload to bytes or str, not {dumps!r:.80}")


@dataclass(slots=True)
class Parts:
    """What a notifier consists of.

    Attributes:
        services: tasks that run until the notifier closes.
        jobs: tasks that end by themselves, which closing waits for.
        routes: one for each router.
        external: the stream store whose streams are its own, if it has no `LiveLog` in `live`.
        liveness: the store, if it knows whether it receives what other processes save.
    """

    counters: Counters
    services: Background
    jobs: Background
    live: LiveLog
    streams: NotifierStreams
    telemetry: Telemetry
    pipeline: Pipeline
    fan_out: FanOut
    local_presence: LocalPresence | None
    receivers: Receivers
    routes: Sequence[Routes]
    external: StreamStore | None
    liveness: Liveness | None

    async def end_streams(self, rank: int) -> None:
        """End the streams of lower ranks."""
        streams = self.streams
        if rank >= RANKS:
            streams.close()
            streams.users.clear()
        streams.cut(rank)  # a concurrent drain or aclose may be further
        self.live._hub.wake_ended()
        await streams.close_external()

    async def aclose(self, timeout: float) -> None:
        """End every stream, let pushes finish, release presence and stop; `timeout` seconds for each at most."""
        await self.end_streams(RANKS)
        self.live._hub.sets.remove(self.streams)
        if not await self.jobs.settle(timeout):
            logger.warning("closing with %d pushes pending", self.counters.pending_pushes)
        if self.local_presence is not None:
            await self.local_presence.aclose(timeout)
        await self.services.aclose(_GRACE)
        await self.jobs.aclose(_GRACE)
        self.telemetry.close()

    def abandon(self, *, forked: bool) -> None:
        """Release what needs no event loop, because that of the notifier has ended.

        Args:
            forked: whether this process was forked after the notifier was used: the registrations of its users belong
                to the other process.
        """
        self.streams.close()
        self.streams.users.clear()
        self.live._hub.sets.remove(self.streams)
        self.services.abandon()
        self.jobs.abandon()
        if self.local_presence is not None and not forked:
            self.local_presence.release_all()
        self.telemetry.close()


def as_routers(router: Router | Sequence[Router] | None) -> list[Router]:
    """Return the routers that were given as one, as a sequence or not at all.

    Raises:
        UsageError: one is not a router, or is given twice.
    """
    if router is None:
        return []
    routers: list[Any] = list(router) if isinstance(router, list | tuple) else [router]
    for each in routers:
        check_parts(router=(each, "route"))
        if each is None:
            raise UsageError("router= must be a router or a sequence of routers, not a sequence with None")
    if len({id(each) for each in routers}) < len(routers):
        raise UsageError("router= names one router twice: every event would be routed twice")
    return routers


def assemble(
    store: Store | None,
    routers: Sequence[Router],
    presence: PresenceTracker | None,
    here: RoutingInfo,
    options: Options,
    *,
    deliver: Deliver,
    opening: Callable[[], None],
    is_named: bool,
) -> Parts:
    """Return the parts of a notifier.

    Args:
        store: as for `Notifier`; and so are the next two.
        routers: those given as `router`.
        presence: likewise.
        here: how other instances reach this one.
        options: likewise.
        deliver: what a receiving router is given.
        opening: called before a stream is opened.
        is_named: whether the instance's id was given.

    Raises:
        UsageError: a part lacks its method.
    """
    check_parts(store=(store, "save"), presence=(presence, "locate"))
    if store is None:
        logger.info("a notifier without a store: every event is ephemeral, and streams cannot resume")
    services, jobs = Background("notifier"), Background("notifier")
    stream_store = store if isinstance(store, StreamStore) else None
    shared = getattr(store, "live", None) if ability(store, StreamStore, live="subscribe") else None
    external: StreamStore | None = None
    if isinstance(shared, LiveLog):
        live, counters = shared, Counters()
    else:
        external = stream_store  # its attribute `live`, if there is one, is something else
        read_from = store if external is None else None
        live = LiveLog(read_from, background=services, buffer_size=options.buffer_size, read_timeout=options.timeout)
        counters = live._counters
    hub = live._hub
    guard = hub.guard
    common: dict[str, Any] = {"timeout": options.timeout, "counters": counters}
    local_presence: LocalPresence | None = None
    if presence is not None:
        local_presence = LocalPresence(
            presence, here, linger=options.linger, background=services, guard=guard, **common
        )
    receivers = Receivers(
        [
            RouteReceiver(
                router, here.instance_id, deliver, timeout=options.timeout, guard=guard, catch_up=live.catch_up
            )
            for router in routers
            if isinstance(router, ReceivingRouter)
        ]
    )
    streams = NotifierStreams(
        counters,
        audit_interval=options.poll_interval if stream_store is None else options.audit_interval,
        opening=opening,
        presence=local_presence,
        receiver=receivers if receivers.receivers else None,
        expiry=Expiry(services, guard),
    )
    live._catch_up.join(streams)
    part: object = stream_store
    liveness = part if isinstance(part, Liveness) else None

    def is_receiving() -> bool:
        return receivers.is_receiving and (liveness is None or liveness.is_receiving or not streams.users)

    telemetry = Telemetry(counters, hub, streams.users, is_receiving)
    if ability(store, HasOutbox):
        telemetry.waiting = lambda: store.last_backlog.waiting
    common["background"] = jobs
    routes = [Routes(router, here.instance_id, **common) for router in routers]
    locator = Locator(presence, **common) if presence is not None else None
    namesakes = Namesakes(
        here.instance_id, hub.origin, routes, timeout=options.timeout, background=services, is_given=is_named
    )
    receivers.looked = namesakes.looked
    for receiver in receivers.receivers:
        receiver.on_start = namesakes.look
    fan_out = FanOut(
        namesakes=namesakes,
        name=hub.name,
        origin=hub.origin,
        live=hub,
        ephemerals=store if ability(store, Ephemerals) else None,
        show_external=streams.show_external,
        users=streams.users,
        routes=routes,
        locator=locator,
        counters=counters,
        guard=guard,
    )
    pipeline = Pipeline(
        name=hub.name,
        gate=Gate(locator if options.offline == "drop" else None, streams.users, counters, hub.name),
        fan_out=fan_out,
        immediate=store if ability(store, Immediate, save_nowait="save") else None,
        transactional=store if ability(store, SaveInTransaction, save_in="save") else None,
        writer=Writer(store, max_pending=options.max_pending, guard=guard, **common) if store is not None else None,
        telemetry=telemetry,
        counters=counters,
        guard=guard,
    )
    return Parts(
        counters=counters,
        services=services,
        jobs=jobs,
        live=live,
        streams=streams,
        telemetry=telemetry,
        pipeline=pipeline,
        fan_out=fan_out,
        local_presence=local_presence,
        receivers=receivers,
        routes=routes,
        external=external,
        liveness=liveness,
    )
