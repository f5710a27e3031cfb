"""Routers and presence trackers with one bug each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio.lowlevel

from notify import ClosedError, Event, Guarantees, RoutingInfo
from notify.abc import Registration
from notify.testing import LeasedPresenceSuite, PresenceSuite, RouterSuite
from notify.testing.presence import ImmediatePresenceSuite, SharedPresenceSuite
from notify_memory import MemoryPresence
from tests.conformance.broken import caught_by
from tests.conformance.outsiders import HandmadePresence, Switchboard

# -- routers --------------------------------------------------------------------------------------------------------


@caught_by("test_an_event_reaches_the_instance_it_is_routed_to", RouterSuite)
@caught_by("test_instances_with_similar_names_are_told_apart", RouterSuite)
@caught_by("test_routes_may_run_at_once", RouterSuite)
class RoutesToAll(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await super().route(event, None)


@caught_by("test_an_event_for_every_instance_reaches_all", RouterSuite)
@caught_by("test_a_push_arrives_at_the_other_instance", RouterSuite)
@caught_by("test_a_broadcast_is_seen_once_by_every_stream", RouterSuite)
class RoutesToNobodyInParticular(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if to is not None:
            await super().route(event, to)


@caught_by("test_instances_with_similar_names_are_told_apart", RouterSuite)
class ComparesBeginnings(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        for name in list(self.notifiers):
            if to is None or name.startswith(to.instance_id):
                await super().route(event, RoutingInfo(name))


@caught_by("test_users_with_similar_names_are_told_apart", RouterSuite)
class FoldsUsers(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await super().route(event.addressed_to(event.user.lower()), to)


@caught_by("test_every_field_arrives", RouterSuite)
class LosesMeta(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await super().route(event.with_meta({}), to)


@caught_by("test_every_field_arrives", RouterSuite)
class CarriesEightKilobytes(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if len(event.data) < 8000:
            await super().route(event, to)


@caught_by("test_an_unknown_instance_does_no_harm", RouterSuite)
class InsistsOnAnInstance(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        assert to is None or to.instance_id in self.notifiers
        await super().route(event, to)


@caught_by("test_an_instance_that_closed_does_no_harm", RouterSuite)
class InsistsOnAnOpenInstance(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if to is not None:
            self.notifiers[to.instance_id].subscribe("unknown")
        await super().route(event, to)


@caught_by("test_an_instance_receives_from_its_start", RouterSuite)
class KeepsTheFirstOfAName(Switchboard):
    def __init__(self) -> None:
        super().__init__()

        class First(dict[str, Any]):
            def __setitem__(self, name: str, notifier: Any) -> None:
                self.setdefault(name, notifier)

        self.notifiers = First()


@caught_by("test_routes_may_run_at_once", RouterSuite)
class LosesUnderLoad(Switchboard):
    busy = False

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if not self.busy:
            self.busy = True
            await super().route(event, to)
            self.busy = False


@caught_by("test_a_cancelled_route_does_no_harm", RouterSuite)
class IsStuckWhenCancelled(Switchboard):
    busy = False

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        while self.busy:
            await anyio.lowlevel.checkpoint()
        self.busy = True
        await super().route(event, to)
        self.busy = False


@caught_by("test_what_arrives_again_or_in_disorder_does_no_harm", RouterSuite)
class InventsEvents(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await super().route(event, to)
        if event.payload == 3:
            await super().route(Event(event.user, "invented"), to)


@caught_by("test_an_ephemeral_push_is_seen_once", RouterSuite)
@caught_by("test_a_broadcast_is_seen_once_by_every_stream", RouterSuite)
class StripsTheOrigin(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await super().route(event if event.id else event.with_meta({}), to)


@caught_by("test_the_verdict_on_a_working_router", RouterSuite)
class RefusesTheLibrarysOwn(Switchboard):
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if event.type.startswith("notify."):
            raise ValueError(event.type)
        await super().route(event, to)


# -- presence -------------------------------------------------------------------------------------------------------


class Leased(HandmadePresence):
    """Makes its own board, and further trackers of it."""

    def __init__(self, board: Any = None) -> None:
        super().__init__({} if board is None else board, 0.1)

    def sibling(self) -> Leased:
        return type(self)(self.board)


def first(places: Mapping[str, Sequence[RoutingInfo]]) -> dict[str, Sequence[RoutingInfo]]:
    return {user: each[:1] for user, each in places.items()}


@caught_by("test_several_instances_are_several_locations", PresenceSuite)
@caught_by("test_many_at_once", PresenceSuite)
class KnowsOneLocation(MemoryPresence):
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return first(super().locate_nowait(users))


@caught_by("test_every_connection_counts", PresenceSuite)
class CountsEachConnectionAsAPlace(Leased):
    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await self.enter()
        places: dict[str, list[RoutingInfo]] = {}
        for user, routing in self.own.values():
            places.setdefault(user, []).append(routing)
        return {user: places[user] for user in users if user in places}


@caught_by("test_every_connection_counts", PresenceSuite)
@caught_by("test_ending_twice_is_ending_once", PresenceSuite)
class EndsAllAtOnce(Leased):
    def end(self, registration: Registration) -> None:
        self.own.clear()
        self.renew()


@caught_by("test_present_while_registered", PresenceSuite)
@caught_by("test_release_ends_without_waiting", PresenceSuite)
@caught_by("test_a_cancelled_end_takes_effect", PresenceSuite)
@caught_by("test_any_interleaving", PresenceSuite)
class NeverEnds(Leased):
    def end(self, registration: Registration) -> None:
        """Keep it."""


@caught_by("test_locations_equal_what_was_registered", PresenceSuite)
class LosesMetadata(MemoryPresence):
    def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> Any:
        return super().register_nowait(user, routing and RoutingInfo(routing.instance_id))


@caught_by("test_without_routing_the_location_is_empty", PresenceSuite)
class OverlooksTheUnroutable(MemoryPresence):
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        located = super().locate_nowait(users)
        return {user: [to for to in places if to.instance_id] for user, places in located.items()}


@caught_by("test_locating_keeps_the_order", PresenceSuite)
class SortsUsers(MemoryPresence):
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return super().locate_nowait(sorted(users))


@caught_by("test_locating_no_users", PresenceSuite)
class FindsTheAbsent(MemoryPresence):
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return {user: () for user in users} | {**super().locate_nowait(users)}


@caught_by("test_users_with_similar_names_are_told_apart", PresenceSuite)
class FoldsNames(MemoryPresence):
    def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> Any:
        return super().register_nowait(user.lower(), routing)


@caught_by("test_a_closed_tracker_raises", PresenceSuite)
class GoesOnWhenClosed(MemoryPresence):
    async def aclose(self) -> None:
        """Stay open."""


class Slow(MemoryPresence):
    """Really waits."""

    locked = False

    async def register(self, user: str, routing: RoutingInfo | None = None) -> Any:
        await anyio.lowlevel.checkpoint()
        return super().register_nowait(user, routing)


@caught_by("test_a_cancelled_registration_does_no_harm", PresenceSuite)
class StaysLocked(Slow):
    async def register(self, user: str, routing: RoutingInfo | None = None) -> Any:
        assert not self.locked
        self.locked = True
        registration = await super().register(user, routing)
        self.locked = False
        return registration


@caught_by("test_an_answer_at_once_is_the_same_answer", ImmediatePresenceSuite)
class AnswersOtherwiseAtOnce(MemoryPresence):
    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return super().locate_nowait(users)

    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return {**super().locate_nowait(users), "carol": ()}


@caught_by("test_a_closed_tracker_answers_at_once", ImmediatePresenceSuite)
class AnswersAtOnceWhenClosed(MemoryPresence):
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        with suppress(ClosedError):
            return super().locate_nowait(users)
        return {}


class Modest(Leased):
    guarantees = Guarantees()


@caught_by("test_nothing_goes_untested", PresenceSuite)
class SaysItIsLeased(Modest):
    guarantees = Guarantees(leased=True)


@caught_by("test_others_see_it", SharedPresenceSuite)
@caught_by("test_processes_count_together", SharedPresenceSuite)
class KeepsItToItself(Leased):
    def sibling(self) -> Leased:
        return type(self)()


@caught_by("test_others_see_a_release_soon", SharedPresenceSuite)
class ReleasesAtTheNextRenewal(Leased):
    def end(self, registration: Registration) -> None:
        if not self.renewing:
            super().end(registration)


@caught_by("test_closing_releases_ones_own", SharedPresenceSuite)
class LeavesAllWhenClosed(Leased):
    async def aclose(self) -> None:
        await self.background.aclose(1.0)


@caught_by("test_closing_releases_ones_own", SharedPresenceSuite)
class ReleasesAllWhenClosed(Leased):
    def __init__(self, board: Any = None) -> None:
        super().__init__(board)
        self.ttl = 10.0  # on a slow machine, the other one would renew its own in time

    async def aclose(self) -> None:
        await super().aclose()
        self.board.clear()


@caught_by("test_the_dead_vanish", LeasedPresenceSuite)
class NeverExpires(Leased):
    def renew(self) -> None:
        self.board[self.name] = (anyio.current_time() + 3600, [*self.own.values()])


@caught_by("test_the_living_stay", LeasedPresenceSuite)
@caught_by("test_a_lost_lease_heals", LeasedPresenceSuite)
@caught_by("test_a_name_may_return", LeasedPresenceSuite)
class NeverRenews(Leased):
    async def renew_forever(self) -> None:
        await anyio.sleep_forever()


@caught_by("test_a_lost_lease_heals", LeasedPresenceSuite)
class RenewsWhatIsThere(Leased):
    async def renew_forever(self) -> None:
        while True:
            await anyio.sleep(self.ttl / 4)
            if self.name in self.board:
                self.renew()


@caught_by("test_an_old_end_ends_nothing_new", LeasedPresenceSuite)
class EndsTheUser(Leased):
    def end(self, registration: Registration) -> None:
        user, _ = self.own[registration]
        super().end(registration)
        for name, (deadline, registrations) in self.board.items():
            self.board[name] = (deadline, [each for each in registrations if each[0] != user])
