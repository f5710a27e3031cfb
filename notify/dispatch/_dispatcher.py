"""`Dispatcher`, the class that applications use: plans, submits, sends, explains."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, Self, overload

from notify import BackendError, Notifier
from notify.abc import PresenceTracker
from notify.adapters import OutageLog
from notify.inbox import Inbox

from ._audience import Audience, audience_mark, batches
from ._channel import Channel
from ._channel_log import logger, place_of
from ._checks import check_choice, check_seconds
from ._content import DataTemplates, Templates
from ._decisions import Plan
from ._delivery_events import DeliveryEvents
from ._erasing import join_notifiers
from ._links import Links
from ._operations import DispatchOperations
from ._parts import SCHEDULES, DispatchParts, LayersOf, Recipients, check_channels, check_links, check_presence, part
from ._planning import recipient_of
from ._preferences import Preferences
from ._reading import watch_reads
from ._registry import TypeRegistry
from ._reporting import OnReport
from ._retry import RetrySchedule
from ._running import Running
from ._scheduling import ScheduleRunner
from ._submitting import NotificationDraft, check_key, draft, fingerprint, plans, plans_of_many, submission
from ._telemetry import DispatchTelemetry
from ._tickets import Ticket as Ticket
from ._types import NotificationType, Recipient
from ._worker import DispatchWorker, Tick
from ._zones import check_zone
from .abc import (
    CapStore,
    DigestStore,
    DispatchRecords,
    DispatchStore,
    EndpointStore,
    GateStore,
    PreferenceStore,
    Submitted,
)

_BATCH: Final = 50
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Dispatcher(DispatchOperations):
    """Sends notifications over the channels that their type, the recipient's preferences and the time of day allow.

    ```python
    dispatcher = Dispatcher(inbox, store, types, {"in_app": InAppChannel(inbox)}, recipients=recipients)
    async with dispatcher.running():  # in any number of processes
        ticket = await dispatcher.submit("comment.created", "alice", {"title": "Bob answered"})
        print(await dispatcher.explain(ticket, "alice"))
    ```

    Args:
        inbox: the inbox, which knows what has been read; None: there is none.
        store: keeps deliveries. An interface that it does not have has to be passed by name, such as `caps`.
        types: the types that can be submitted.
        channels: the channels, by their names. The inbox's is called `in_app`.
        recipients: a function, plain or async, from user ids to their `Recipient`s. Users that it leaves out are
            unknown, and get nothing.
        templates: makes texts; None: they are in the data (`DataTemplates`).
        presence: the notifier's tracker, for channels with `Fallback("away")`.
        preferences: keeps preferences; None: the store does.
        endpoints: keeps devices and addresses; None: the store does.
        caps: counts for frequency caps; None: the store does.
        gates: keeps which providers throttle; None: the store does.
        defaults: preferences of users who have not decided; None: those of `types`.
        layers: a function, plain or async, from user ids to `Layers`: the preferences that an operator or a tenant has
            set for these users; a user may be left out.
        tz: the IANA zone of users whose zone is unknown.
        retries: how deliveries are retried, by the names of channels; see `RetrySchedule`.
        timeout: seconds that a channel may take to send one message.
        lease: seconds after which another worker takes over the deliveries of a worker that died. It exceeds `timeout`
            by at least ten seconds, in which the outcome is stored, or by a quarter of the lease if that is less.
        keep: seconds after which `run` removes notifications of which nothing is waiting, and retired endpoints; None:
            never.
        links: signs links to a `DispatchApp`, for unsubscribing from marketing; None: messages have none.
        events: a notifier, by which the states of deliveries are pushed to their recipients, as events of the type
            `delivery`; None: they are not.
        on_report: an async function, called with a `Delivery` and a `Report` after a provider's report has changed
            something, for example to push it to the user; None: reports are only stored.
        clock: returns the present time as an aware datetime; None: the system's.

    Raises:
        UsageError: a part is missing or does not fit, or a type uses a channel that is not there.
    """

    def __init__(
        self,
        inbox: Inbox | None,
        store: DispatchStore,
        types: TypeRegistry | Iterable[NotificationType],
        channels: Mapping[str, Channel],
        *,
        recipients: Recipients,
        templates: Templates | None = None,
        presence: PresenceTracker | None = None,
        preferences: PreferenceStore | None = None,
        endpoints: EndpointStore | None = None,
        caps: CapStore | None = None,
        gates: GateStore | None = None,
        defaults: Preferences | None = None,
        layers: LayersOf | None = None,
        tz: str = "UTC",
        retries: Mapping[str, RetrySchedule] = _NOTHING,
        timeout: float = 20.0,
        lease: float = 60.0,
        keep: float | None = 30 * 86_400.0,
        links: Links | None = None,
        events: Notifier[Any] | None = None,
        on_report: OnReport | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        registry = types if isinstance(types, TypeRegistry) else TypeRegistry(types)
        by_name = check_channels(channels)
        registry.check_channels(by_name)
        check_presence(presence, registry)
        check_zone(tz, "Dispatcher: tz")
        if keep is not None:
            check_seconds("Dispatcher: keep", keep)
        self._parts = DispatchParts(
            inbox=inbox,
            presence=presence,
            store=part("store", None, store, DispatchStore),
            records=part("store", None, store, DispatchRecords),
            preferences=part("preferences", preferences, store, PreferenceStore),
            endpoints=part("endpoints", endpoints, store, EndpointStore),
            caps=part("caps", caps, store, CapStore),
            gates=part("gates", gates, store, GateStore),
            digests=part("store", None, store, DigestStore),
            types=registry,
            channels=by_name,
            recipients=recipients,
            templates=DataTemplates() if templates is None else templates,
            defaults=registry.defaults if defaults is None else defaults,
            layers=layers,
            tz=tz,
            clock=clock or (lambda: datetime.now(UTC)),
            chance=random.random,
            retries={**SCHEDULES, **retries},
            events=DeliveryEvents(events),
            links=check_links(links),
        )
        join_notifiers(self._parts)
        watch_reads(self._parts)
        self._on_report = on_report
        self._telemetry = DispatchTelemetry()
        self._scheduler = ScheduleRunner(self._parts, self._telemetry, lease=lease)
        self._worker = DispatchWorker(
            self._parts, self._telemetry, batch=_BATCH, lease=lease, timeout=timeout, keep=keep
        )

    @property
    def types(self) -> TypeRegistry:
        """The types that can be submitted."""
        return self._parts.types

    # -- before --------------------------------------------------------------------------------------------------

    async def plan(
        self, key: str, to: str | Recipient, data: Mapping[str, Any] | None = None, *, now: datetime | None = None
    ) -> Plan:
        """Return what `submit` would do for a recipient, and why; it stores and sends nothing.

        Frequency caps are not in it: they are counted when something is sent.

        Args:
            key: the type.
            to: a user id, or a whole `Recipient`, which needs no account.
            data: what would be submitted.
            now: the time for which to plan; None: the present one.

        Raises:
            UsageError: the type is not registered; or an argument, the recipient's zone or the stored preferences are
                not valid. `submit` raises the same.
            BackendError: what is known of the recipient cannot be read.
        """
        moment = self._parts.clock() if now is None else now
        user, given = recipient_of(to)
        return (await plans(self._parts, draft(self._parts, key, data, moment, meta={}), [user], given, moment))[0]

    @overload
    async def submit(
        self,
        key: str,
        to: str | Recipient,
        data: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        tenant: str = "",
        on_error: Literal["raise"] = "raise",
    ) -> Ticket: ...

    @overload
    async def submit(
        self,
        key: str,
        to: str | Recipient,
        data: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        tenant: str = "",
        on_error: Literal["log"],
    ) -> Ticket | None: ...

    async def submit(
        self,
        key: str,
        to: str | Recipient,
        data: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        tenant: str = "",
        on_error: Literal["raise", "log"] = "raise",
    ) -> Ticket | None:
        """Store a notification; `run` sends it, here or in another process.

        Args:
            key: the type.
            to: a user id, or a whole `Recipient`, which needs no account.
            data: a JSON object: what the text is made of.
            idempotency_key: repeating the call with the same key and the same arguments stores nothing, for a day, and
                for as long as the notification may be tried.
            connection: a connection of the store's driver with an open transaction. The notification is stored in a
                savepoint of it, and sent after its commit.
            tenant: the scope of the idempotency key.
            on_error: `"log"`: whatever fails is logged, and None is returned, so that the caller goes on.

        Raises:
            UsageError: the type is not registered, or refuses the data; the key was used for another request.
            BackendError: it is not stored, or perhaps (`PushUncertainError`): repeat it with the same idempotency key.

        Order: none.    Cancellation: stored or not.    Concurrency: any number of tasks.
        Cost: a few reads, one transaction.
        """
        check_choice("submit: on_error", on_error, ("raise", "log"))
        try:
            return await self._submit(key, to, data, check_key(idempotency_key), connection, tenant)
        except Exception as error:
            if on_error == "raise":
                raise
            why = error if isinstance(error, BackendError) else place_of(error)
            logger.error("a notification of type %s was not stored: %s", f"{key!r:.140}", why)
            return None

    async def _submit(
        self,
        key: str,
        to: str | Recipient,
        data: Mapping[str, Any] | None,
        id_key: str | None,
        connection: Any,
        tenant: str,
    ) -> Ticket:
        now = self._parts.clock()
        user, given = recipient_of(to)
        with self._telemetry.submitting(key) as meta:
            request = draft(self._parts, key, data, now, meta=meta)
            mark = fingerprint(request.type.key, user, request.notification.data)
            options = self._options(request, tenant, id_key, mark)
            found = await plans(self._parts, request, [user], given, now)
            rows = submission(request, found, given, **options)
            stored: Submitted = await self._parts.store.submit(rows, connection=connection)
        if not stored.is_replay:
            self._telemetry.submitted(request.type.key, 1)
        self._wake()
        return Ticket(stored.notification, stored.is_replay, _user=user, _explain=self.explain)

    async def submit_many(
        self,
        key: str,
        audience: Audience,
        data: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        tenant: str = "",
        batch: int = 500,
    ) -> Ticket:
        """Submit one notification to many recipients, in batches of one transaction each.

        If it is interrupted, repeat it with the same arguments: it goes on where it stopped, and submits no recipient
        twice.

        Args:
            key: the type.
            audience: user ids and recipients; see `Audience`.
            data: as for `submit`.
            idempotency_key: names this submission to this audience; None: it cannot be repeated. Another collection of
                recipients under the same key is refused; what a function or an iterator yields cannot be compared, so
                give each its own key.
            tenant: the scope of the idempotency key.
            batch: how many recipients one transaction has.

        Returns:
            The ticket, with how many recipients this call has submitted.

        Raises: as `submit`.    Cancellation: some batches are stored; repeat it.    Cost: bounded memory.
        """
        now = self._parts.clock()
        id_key = check_key(idempotency_key) or secrets.token_hex(16)
        with self._telemetry.submitting(key) as meta:
            request = draft(self._parts, key, data, now, meta=meta)
            mark = fingerprint(request.type.key, await audience_mark(audience), request.notification.data)
            options = self._options(request, tenant, id_key, mark)
            first = await self._parts.store.submit(submission(request, [], {}, cursor="", **options))
            if first.is_replay:
                if first.cursor is None:  # all of it has been removed since
                    return Ticket(first.notification, True, 0, _explain=self.explain)
                request = draft(self._parts, key, data, now, meta=meta, id=first.notification)
        count = 0
        async with aclosing(batches(audience, first.cursor or "", batch)) as members:
            async for users, given, cursor in members:
                found = await plans_of_many(self._parts, request, users, given, now)
                await self._parts.store.submit(submission(request, found, given, cursor=cursor, **options))
                count += len(users)
                self._telemetry.submitted(request.type.key, len(users))
                self._wake()
        return Ticket(request.notification.id, first.is_replay, count, _explain=self.explain)

    def _options(self, request: NotificationDraft, tenant: str, key: str | None, mark: str) -> dict[str, Any]:
        return {"tenant": tenant, "key": key, "fingerprint": mark, "horizon": self._parts.horizon(request.type)}

    # -- sending -------------------------------------------------------------------------------------------------

    async def tick(self, now: datetime | None = None) -> Tick:
        """Do one step of `run`: schedules, digests that are due, and one batch of deliveries.

        Args:
            now: what is due by then is handled; None: the present time.

        Raises:
            BackendError: the store failed; safe to repeat.

        Cancellation: what has begun to be sent is finished first.
        """
        now = self._parts.clock() if now is None else now
        scheduled = await self._scheduler.tick(now)
        return replace(await self._worker.tick(now), scheduled=scheduled)

    async def run(self, *, poll_interval: float = 1.0) -> None:
        """Send what is due until cancelled. Any number of processes may run; a store that fails is tried again.

        Args:
            poll_interval: seconds after which to look for what other processes have submitted.

        Cancellation: what has begun to be sent is finished first, within `timeout` and some seconds.
        """
        outage = OutageLog(logger, "deliveries cannot be read, which is retried", "deliveries are sent again")
        try:
            while True:
                has_more = False
                now = self._parts.clock()
                if self._scheduler.is_due(poll_interval):
                    self._worker.sender.aside(self._scheduler.step, now, self._wake)
                try:
                    has_more = await self._worker.step(now)
                except BackendError as error:
                    outage.failed(error)
                else:
                    outage.recovered()
                if not has_more:
                    await self._worker.wait(poll_interval)
        finally:
            self._scheduler.stop()
            await self._worker.settle()

    def running(self, *, poll_interval: float = 1.0) -> AbstractAsyncContextManager[Self]:
        """Call `run` for as long as an `async with` block lasts; without it, a warning says that nothing is sent."""
        return Running(self, lambda: self.run(poll_interval=poll_interval))

    def _wake(self) -> None:
        self._worker.wake()


def parts_of(dispatcher: Dispatcher) -> DispatchParts:
    """Return what a dispatcher consists of, for `DispatchApp`, which reads and changes the same stores."""
    return dispatcher._parts
