"""Parts that do one thing wrong while their server is away, or where it sends garbage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from notify import (
    BackendUnavailableError,
    Background,
    ClosedError,
    Event,
    Guarantees,
    LiveLog,
    Page,
    PushRejectedError,
    PushUncertainError,
    RoutingInfo,
    Stream,
    ids,
)
from notify.abc import Deliver, Position, Registration
from notify.testing import (
    LivenessSuite,
    PresenceOutageSuite,
    RouterOutageSuite,
    RouterSuite,
    StoreOutageSuite,
    StreamStoreOutageSuite,
    StreamStoreSuite,
)
from notify.testing.stream_store import SharedStreamStoreSuite
from tests.conformance.broken import caught_by
from tests.conformance.broken_others import Leased
from tests.conformance.outsiders import PlainStore


class Server:
    """What several parts are connected to: up, away, or silent (it obeys, and its answers get lost)."""

    def __init__(self) -> None:
        self.state = "up"
        self.data = PlainStore()
        self.connections: dict[anyio.Event, Callable[[Any], object]] = {}

    def lose(self, state: str) -> None:
        self.state = state
        for lost in self.connections:
            lost.set()
        self.connections.clear()

    async def listen(self, take: Callable[[Any], object], task_status: TaskStatus[None]) -> None:
        """Hand over what is spread, until the connection is lost."""
        if self.state != "up":
            raise ConnectionError("refused")
        lost = anyio.Event()
        self.connections[lost] = take
        try:
            task_status.started()
            await lost.wait()
        finally:
            self.connections.pop(lost, None)
        raise ConnectionError("lost")

    def spread(self, message: Any) -> None:
        for take in list(self.connections.values()):
            take(message)


# -- stores ---------------------------------------------------------------------------------------------------------


class Client(PlainStore):
    """A store on a server. Each sibling has a direct connection, which no outage reaches."""

    guarantees = Guarantees(shared=True)

    def __init__(self, server: Server | None = None, *, direct: bool = False) -> None:
        super().__init__()
        self.server = server or Server()
        self.direct = direct
        self.logs, self.heads, self.keys = self.server.data.logs, self.server.data.heads, self.server.data.keys

    def sibling(self) -> Client:
        return type(self)(self.server, direct=True)

    @property
    def state(self) -> str:
        return "up" if self.direct else self.server.state

    async def enter(self) -> None:
        await super().enter()
        if self.state != "up":
            raise BackendUnavailableError("no answer")

    async def save(self, event: Event) -> Event:
        await PlainStore.enter(self)
        if self.state == "away":
            raise self.refused(event)
        stored = self.first(event) or self.append(event)
        if self.state == "silent":
            raise self.unanswered(event)
        return stored

    def first(self, event: Event) -> Event | None:
        return None if event.key is None else self.keys.get((event.user, event.key))

    def refused(self, event: Event) -> Exception:
        return PushRejectedError("connection refused")

    def unanswered(self, event: Event) -> Exception:
        return PushUncertainError("no answer")


class StartsSlowly(Client):
    """The first save times out, as on a busy machine, although its event is stored."""

    is_first = True

    async def save(self, event: Event) -> Event:
        stored = await super().save(event)
        if self.is_first:
            self.is_first = False
            raise PushUncertainError("no answer in time")
        return stored


@caught_by("test_a_save_in_an_outage_has_a_verdict", StoreOutageSuite)
class RaisesWhatTheDriverRaises(Client):
    def refused(self, event: Event) -> Exception:
        return ConnectionRefusedError()


@caught_by("test_a_save_in_an_outage_has_a_verdict", StoreOutageSuite)
class WaitsForTheServer(Client):
    async def save(self, event: Event) -> Event:
        if self.state == "away":
            await anyio.sleep(5)
        return await super().save(event)


@caught_by("test_a_save_in_an_outage_has_a_verdict", StoreOutageSuite)
class SavesLocally(Client):
    async def save(self, event: Event) -> Event:
        try:
            return await super().save(event)
        except PushRejectedError:
            return self.append(event)


@caught_by("test_a_save_in_an_outage_has_a_verdict", StoreOutageSuite)
@caught_by("test_a_verdict_is_true", StoreOutageSuite)
class NeverConnectsAgain(Client):
    gone = False

    @property
    def state(self) -> str:
        self.gone = self.gone or (not self.direct and self.server.state == "away")
        return "away" if self.gone else super().state


@caught_by("test_a_read_in_an_outage_is_unavailable", StoreOutageSuite)
class FindsNothingInAnOutage(Client):
    async def read(self, user: str, after: str, limit: int) -> Page:
        try:
            return await super().read(user, after, limit)
        except BackendUnavailableError:
            return Page((), None, after)


@caught_by("test_a_verdict_is_true", StoreOutageSuite)
class TakesATimeoutForARejection(Client):
    def unanswered(self, event: Event) -> Exception:
        return PushRejectedError("timed out")


@caught_by("test_a_verdict_is_true", StoreOutageSuite)
class SendsAgainWithoutAKey(Client):
    def unanswered(self, event: Event) -> Exception:
        self.append(event)
        return super().unanswered(event)


@caught_by("test_a_key_stores_once_across_outages", StoreOutageSuite)
class ForgetsTheKeyOfWhatItLost(Client):
    def unanswered(self, event: Event) -> Exception:
        self.keys.clear()
        return super().unanswered(event)


# -- stream stores --------------------------------------------------------------------------------------------------


class StreamingBase(Client):
    """Streams what the server spreads."""

    def __init__(self, server: Server | None = None, *, direct: bool = False) -> None:
        super().__init__(server, direct=direct)
        self.background = Background("streaming client")
        self.live = LiveLog(self, background=self.background, listen=self.listen)

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        await self.server.listen(self.take, task_status)

    def take(self, stored: Event) -> None:
        self.live.offer(stored)

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return self.live.subscribe(user, last_id)

    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.server.spread(stored)

    async def aclose(self) -> None:
        self.live.close()
        await self.background.aclose(1.0)
        await super().aclose()


class StreamingClient(StreamingBase):
    """Knows whether it receives."""

    @property
    def is_receiving(self) -> bool:
        return self.live.is_receiving


class Guessing(StreamingBase):
    """Does not know whether it receives, and nothing looks for what its streams miss."""

    def __init__(self, server: Server | None = None, *, direct: bool = False) -> None:
        super().__init__(server, direct=direct)
        self.live = LiveLog(self, background=self.background, on_open=self.opened)
        self.is_listening = False

    def opened(self, _user: str) -> None:
        if not self.is_listening:
            self.is_listening = True
            self.background.start(self.listen_for_ever)

    async def listen_for_ever(self) -> None:
        while True:
            try:
                await self.server.listen(self.take, _Status(self.live.resync))
            except ConnectionError:
                await anyio.sleep(0.02)


class _Status:
    def __init__(self, started: Callable[[], None]) -> None:
        self.started = started


@caught_by("test_streams_heal", StreamStoreOutageSuite)
class SubscribesOnce(Guessing):
    async def listen_for_ever(self) -> None:
        try:
            await self.server.listen(self.take, _Status(self.live.resync))
        except ConnectionError:
            await anyio.sleep_forever()


@caught_by("test_streams_heal", StreamStoreOutageSuite)
class ReconnectsAndForgetsToResync(Guessing):
    async def listen_for_ever(self) -> None:
        while True:
            try:
                await self.server.listen(self.take, _Status(lambda: None))
            except ConnectionError:
                await anyio.sleep(0.02)

    def take(self, stored: Event) -> None:
        if stored.payload != "after":
            super().take(stored)


@caught_by("test_streams_heal", StreamStoreOutageSuite)
class EndsItsStreamsInAnOutage(StreamingClient):
    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        try:
            await super().listen(task_status=task_status)
        finally:
            self.live.close()


@caught_by("test_what_was_refused_is_not_yielded", StreamStoreOutageSuite)
class OffersWhatIsRefused(StreamingClient):
    def refused(self, event: Event) -> Exception:
        head = self.heads.get(event.user, ids.ZERO)
        self.live.offer(event.stored(ids.following(head, self.now()), head))
        return super().refused(event)


@caught_by("test_saves_that_collide_show_only_what_is_stored", StreamStoreSuite)
@caught_by("test_processes_that_collide_show_only_what_is_stored", SharedStreamStoreSuite)
class OffersWhatLosesTheRace(StreamingClient):
    async def save(self, event: Event) -> Event:
        stored = await super().save(event)
        if stored.payload != event.payload:
            self.live.offer(event.stored(ids.following(stored.id, self.now()), stored.id))
        return stored


@caught_by("test_a_stream_cannot_open_in_an_outage", StreamStoreOutageSuite)
class OpensAnywhere(StreamingClient):
    async def head(self, user: str) -> str:
        try:
            return await super().head(user)
        except BackendUnavailableError:
            return ids.ZERO


@caught_by("test_liveness_follows_an_outage", StreamStoreOutageSuite)
class AlwaysReceives(StreamingClient):
    @property
    def is_receiving(self) -> bool:
        return True


@caught_by("test_it_receives_while_a_stream_is_open", LivenessSuite)
@caught_by("test_the_verdict_agrees", LivenessSuite)
class NeverReceives(StreamingClient):
    @property
    def is_receiving(self) -> bool:
        return False


# -- routers --------------------------------------------------------------------------------------------------------


class HubRouter:
    """A router over a server, one object for all instances."""

    guarantees = Guarantees()

    def __init__(self) -> None:
        self.server = self.hub = Server()

    def sibling(self) -> HubRouter:
        return self

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await anyio.lowlevel.checkpoint()
        if self.hub.state != "up":
            raise ConnectionError("refused")
        self.hub.spread((to and to.instance_id, event.to_bytes()))

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        def take(message: Any) -> None:
            name, raw = message if isinstance(message, tuple) else (None, message)
            if name in (None, instance_id):
                deliver(raw)

        await self.hub.listen(take, task_status)


@caught_by("test_garbage_does_no_harm", RouterSuite)
class EndsWithGarbage(HubRouter):
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        ended = anyio.Event()

        def take(message: Any) -> None:
            if not isinstance(message, tuple):
                ended.set()
            elif message[0] in (None, instance_id) and not ended.is_set():
                deliver(message[1])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.hub.listen, take, task_status)
            await ended.wait()
            await anyio.sleep_forever()


@caught_by("test_an_event_reaches_the_instance_it_is_routed_to", RouterSuite)
class NeverSaysStarted(HubRouter):
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        await super().receive(instance_id, deliver, task_status=_Status(lambda: None))


@caught_by("test_a_push_arrives_at_the_other_instance", RouterSuite)
class CrashesAtOnce(HubRouter):
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        raise ConnectionRefusedError


@caught_by("test_nothing_goes_untested", RouterSuite)
class SaysItIsDurable(HubRouter):
    guarantees = Guarantees(durable=True)


@caught_by("test_events_arrive_again", RouterOutageSuite)
class NeverListensAgain(HubRouter):
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        try:
            await super().receive(instance_id, deliver, task_status=task_status)
        except ConnectionError:
            await anyio.sleep_forever()


# -- presence -------------------------------------------------------------------------------------------------------


class LeasedClient(Leased):
    """A tracker on a server."""

    def __init__(self, board: Any = None, server: Server | None = None) -> None:
        super().__init__(board)
        self.server = server or Server()
        self.direct = server is not None
        self.is_connected = True

    def sibling(self) -> Leased:
        return type(self)(self.board, self.server)

    @property
    def is_up(self) -> bool:
        return self.direct or self.server.state == "up"

    async def enter(self) -> None:
        await super().enter()
        was_connected, self.is_connected = self.is_connected, self.is_up
        if not (was_connected and self.is_connected):
            raise BackendUnavailableError("no answer")

    def renew(self) -> None:
        if self.is_up:
            super().renew()


@caught_by("test_locating_in_an_outage_is_unavailable", PresenceOutageSuite)
class FindsNobodyInAnOutage(LeasedClient):
    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        try:
            return await super().locate(users)
        except BackendUnavailableError:
            return {}


@caught_by("test_registrations_survive_an_outage", PresenceOutageSuite)
class DropsAllInAnOutage(LeasedClient):
    async def enter(self) -> None:
        if not self.is_up:
            self.own.clear()
        await super().enter()


@caught_by("test_registering_in_an_outage_ends_in_time", PresenceOutageSuite)
class RegistersAndRaises(LeasedClient):
    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        if not self.is_up:
            self.own[self] = (user, routing)  # type: ignore[index, assignment]
        return await super().register(user, routing)


@caught_by("test_registering_in_an_outage_ends_in_time", PresenceOutageSuite)
class RaisesClosedInAnOutage(LeasedClient):
    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        if not self.is_up:
            raise ClosedError("the connection is closed")
        return await super().register(user, routing)


@caught_by("test_an_end_in_an_outage_takes_effect", PresenceOutageSuite)
class KeepsWhatEndsInAnOutage(LeasedClient):
    def end(self, registration: Registration) -> None:
        if self.is_up:
            super().end(registration)
