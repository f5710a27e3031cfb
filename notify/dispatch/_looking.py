"""The last look before sending: what has changed since a delivery was submitted, and whether it is sent now.

Everything that may have changed is checked again: the type, preferences, quiet hours, devices, open streams, what has
been read, whether the provider throttles, and last, whether the frequency caps have room.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import anyio

from notify import BackendError, ClosedError, NotifyError, UsageError
from notify.adapters import OutageLog

from ._caps import is_counted, mode_of, reason_of, resets_at, windows
from ._channel import Job
from ._channel_log import ChannelLog, place_of
from ._content import Rendering
from ._decisions import REFUSED_RETRY, Hold, Join, Send, Skip
from ._digests import joins_of, leading_window
from ._moves import child, ended, gate_of, is_in_doubt, later, move, of_other_version
from ._parts import DispatchParts
from ._plan import Look, usable
from ._planning import Known, given_at_submit, known, plan, read_items
from ._reasons import Reason
from ._schedules import timed
from ._submitting import release_of
from ._types import IN_APP, NotificationType
from .abc import Claim, Delivery, Endpoint, Move, State

logger = logging.getLogger("notify")

_DIGEST_PAGE: Final = 500
"""How many notifications of a digest are read at a time; all are counted."""

_DIGEST_SHOWN: Final = 500
"""The most notifications of a digest, the newest ones, that its texts are rendered from."""

_DIGEST_COUNTED: Final = 20
"""The most notifications of a digest that are looked up if a frequency cap is full."""

_REACHED: Final = frozenset({State.ACCEPTED, State.DELIVERED, State.UNKNOWN, State.SENDING})
"""States of a delivery that has perhaps arrived."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A claimed delivery that is ready to be sent."""

    claim: Claim
    type: NotificationType
    job: Job


class Looker:
    """Decides what becomes of claimed deliveries.

    Args:
        parts: of the dispatcher.
        log: what is logged about channels.
        timeout: seconds in which everything about the recipients has to be known.
    """

    def __init__(self, parts: DispatchParts, log: ChannelLog, *, timeout: float) -> None:
        self._parts = parts
        self._log = log
        self._timeout = timeout
        self._lookups = OutageLog(
            logger,
            "what is known of recipients cannot be read, so their deliveries wait",
            "what is known of recipients can be read again",
        )
        self._closed_gates = OutageLog(
            logger,
            "which providers throttle cannot be read, so messages are sent to all of them",
            "which providers throttle can be read again",
        )

    async def look(self, claims: Sequence[Claim], now: datetime) -> tuple[list[Move], list[Ready]]:
        """Return what becomes of each claim: a move, or it is ready to be sent."""
        try:
            given = [given_at_submit(each.recipient) for each in claims]
        except UsageError as error:  # a zone, for example, that the zones of this host do not have
            return await self._look_apart(claims, error, now)
        asked = {each.delivery.user for each, recipient in zip(claims, given, strict=True) if recipient is None}
        users = [each.delivery.user for each in claims]
        try:
            with anyio.fail_after(self._timeout):
                found = await known(self._parts, users, set(users) - asked)
            gates = await self._gates(now)
        except Exception as error:  # `recipients` is the application's
            if isinstance(error, UsageError) and not isinstance(error, ClosedError):
                return await self._look_apart(claims, error, now)
            self._lookups.failed(error if isinstance(error, NotifyError) else place_of(error))
            return [later(each, error, now) for each in claims if not each.is_ambiguous], []
        self._lookups.recovered()
        moves: list[Move] = []
        ready: list[Ready] = []
        for each, recipient in zip(claims, given, strict=True):
            who = found[each.delivery.user]
            try:
                result = await self._decide(each, who if recipient is None else who.of(recipient), gates, now)
            except ClosedError:
                raise
            except Exception as error:  # a fault of the application's parts concerns this delivery, and no other one
                if not isinstance(error, BackendError):
                    self._log.faulty(each.delivery.channel, error)
                if each.is_ambiguous:  # as it is, it is claimed again as ambiguous
                    continue
                result = later(each, error, now)
            if isinstance(result, Ready):
                ready.append(result)
            else:
                moves.append(result)
        return moves, ready

    async def _gates(self, now: datetime) -> Mapping[str, datetime]:
        """Return the gates that are closed; none if they cannot be read, since providers then throttle again."""
        try:
            gates = await self._parts.gates.gates(now)
        except BackendError as error:
            self._closed_gates.failed(error)
            return {}
        self._closed_gates.recovered()
        return gates

    async def _look_apart(
        self, claims: Sequence[Claim], error: UsageError, now: datetime
    ) -> tuple[list[Move], list[Ready]]:
        """Look at each recipient alone, since a value of one is refused: a zone, or preferences of another version."""
        moves: list[Move] = []
        ready: list[Ready] = []
        users = dict.fromkeys(each.delivery.user for each in claims)
        if len(users) == 1:
            logger.warning("a recipient's values are refused, so its deliveries wait: %s", error)
            due_at, reason = now + timedelta(seconds=REFUSED_RETRY), Reason.RECIPIENT_REFUSED
            waiting = [each for each in claims if not each.is_ambiguous]
            return [move(each, State.WAITING, reason, due_at=due_at, error="UsageError") for each in waiting], []
        for user in users:
            found = await self.look([each for each in claims if each.delivery.user == user], now)
            moves += found[0]
            ready += found[1]
        return moves, ready

    async def _decide(self, claim: Claim, known: Known, gates: Mapping[str, datetime], now: datetime) -> Move | Ready:
        delivery, notification = claim.delivery, claim.notification
        channel = self._parts.channels[delivery.channel]
        if is_in_doubt(claim) and not (channel.deduplicates and self._may_repeat(delivery)):
            return move(claim, State.UNKNOWN, Reason.AMBIGUOUS)
        if notification.type not in self._parts.types and self._parts.types.unknown == "error":
            return of_other_version(claim, Reason.UNKNOWN_TYPE, now)
        type = self._parts.types.resolve(notification.type)
        claim, due_at = timed(claim, type, known.zone(self._parts.tz))
        delivery, notification = claim.delivery, claim.notification
        if due_at is not None and due_at > now and not claim.is_ambiguous:
            return move(claim, State.WAITING, Reason.SCHEDULED, due_at=due_at)
        look = await self._now(claim, type, known)
        if delivery.endpoint:  # planned in its own zone, whatever the time is for the other devices
            known = replace(known, endpoints=[each for each in known.endpoints if each.id == delivery.endpoint])
        decided = plan(
            self._parts, type, delivery.user, known, now=now, expires_at=delivery.expires_at, look=look
        ).decisions[0]
        if isinstance(decided, Send) and decided.leading and not await self._leads(claim, type, look, now):
            look = replace(look, has_lost_lead=True)
            decided = plan(
                self._parts, type, delivery.user, known, now=now, expires_at=delivery.expires_at, look=look
            ).decisions[0]
        match decided:
            case Skip(reason=Reason.CHANNEL_NOT_ALLOWED):
                return of_other_version(claim, Reason.CHANNEL_NOT_ALLOWED, now)
            case Skip(reason=Reason.EXPIRED):
                return ended(claim, State.EXPIRED, Reason.EXPIRED)
            case Skip(reason=reason):
                return ended(claim, State.SKIPPED, reason)
            case Hold(reason=reason):
                return ended(claim, State.WAITING, reason, due_at=release_of(decided, delivery.id, delivery.expires_at))
            case Join(reason=reason):
                (join,) = joins_of(
                    type, delivery.user, [decided], notification=notification.id, data=json.loads(notification.data)
                )
                return ended(claim, State.JOINED, reason, join=join)
        assert isinstance(decided, Send)
        targets = usable(type, delivery.channel, known.endpoints) if channel.has_endpoints else []
        if channel.has_endpoints and not delivery.endpoint:
            children = [child(delivery, each, now) for each in targets]
            return ended(claim, State.EXPANDED, Reason.ALLOWED, children=children)
        target = targets[0] if targets else None  # that of the delivery, or else it is not planned
        if (until := gates.get(gate_of(channel, delivery.channel, target))) is not None:
            return ended(claim, State.WAITING, Reason.THROTTLED, due_at=until)
        prepared = await self._prepare(claim, type, known, target, decided, now)
        if isinstance(prepared, Ready):  # counted last, so that what cannot be sent takes no place
            return await self._count(claim, type, look, known.zone(self._parts.tz), now) or prepared
        return prepared

    def _may_repeat(self, delivery: Delivery) -> bool:
        """Return whether there is another attempt: a message that kills every worker is not sent without end."""
        return delivery.attempts < self._parts.schedule(delivery.channel).attempts

    async def _now(self, claim: Claim, type: NotificationType, known: Known) -> Look:
        """Return what the plan has to know of this moment, asking only what the type makes necessary."""
        delivery = claim.delivery
        look = Look(channel=delivery.channel, is_digest=claim.notification.digest is not None)
        fallback = None if look.is_digest else type.fallback.get(delivery.channel)
        has_waited = bool(delivery.endpoint and delivery.reason)
        rows = await self._deliveries(delivery) if has_waited or fallback is not None else ()
        if has_waited:  # devices may have been added or retired since the delivery was expanded
            devices = [each for each in rows if each.channel == delivery.channel and each.endpoint]
            is_rest = any(each.attempts for each in devices if each.id != delivery.id)
            look = replace(look, is_part=len(devices) > 1, is_rest=is_rest)
        elif delivery.endpoint:
            look = replace(look, is_part=len(usable(type, delivery.channel, known.endpoints)) > 1)
        if fallback is None:
            return look
        others = [each for each in rows if each.channel == fallback.of]
        if fallback.use == "failed":
            return replace(look, is_reached=any(each.state in _REACHED for each in others))
        is_read = await self._is_read(delivery.user, others)
        is_connected = fallback.use == "away" and not is_read and await self._is_connected(delivery.user)
        return replace(look, is_read=is_read, is_connected=is_connected)

    async def _is_read(self, user: str, items: Iterable[Delivery]) -> bool:
        """Return whether the item that the inbox has accepted is read, dismissed or gone."""
        return bool(await read_items(self._parts, user, [each.provider_id for each in items if each.channel == IN_APP]))

    async def _is_connected(self, user: str) -> bool:
        """Return whether the user has an open stream; no, if that cannot be known: better twice than not at all."""
        if self._parts.presence is None:
            return False
        try:
            return user in await self._parts.presence.locate([user])
        except NotifyError:
            return False

    async def _deliveries(self, delivery: Delivery) -> Sequence[Delivery]:
        """Return all deliveries of a notification to the recipient of one of them."""
        record = await self._parts.records.record(delivery.notification, delivery.user)
        return record[2] if record is not None else ()

    async def _leads(self, claim: Claim, type: NotificationType, look: Look, now: datetime) -> bool:
        """Return whether this notification is sent at once, since none was sent or collected lately."""
        delivery, caps = claim.delivery, self._parts.caps
        if look.is_rest:
            return True
        data = json.loads(claim.notification.data)
        suffix, window = leading_window(type, delivery.user, delivery.channel, data, now)
        id = claim.notification.id + suffix
        if await caps.admit(id, delivery.user, [window], now) < 0:
            return True
        await caps.admit(f"{id}/collected", delivery.user, [window], now, mode="record")
        return False

    async def _count(self, claim: Claim, type: NotificationType, look: Look, tz: str, now: datetime) -> Move | None:
        """Take a place in the frequency caps; return what becomes of the delivery if there is none."""
        delivery = claim.delivery
        if not is_counted(type, delivery.channel) or look.is_rest:
            return None
        mode = mode_of(type, delivery.channel)
        periods = windows(type, delivery.user, tz, now)
        try:
            full = await self._parts.caps.admit(delivery.notification, delivery.user, periods, now, mode=mode)
        except BackendError as error:
            if type.category != "marketing":
                return None
            due_at = now + timedelta(seconds=60 * (0.5 + self._parts.chance()))
            return move(claim, State.WAITING, Reason.CAPS_UNAVAILABLE, due_at=due_at, error=str(error))
        if full < 0 or await self._has_counted(claim, type):
            return None
        cap = type.caps[full]
        if type.over_cap != "hold":
            return ended(claim, State.SKIPPED, reason_of(cap))
        await self._parts.caps.refund(delivery.notification, delivery.user, periods)
        until = resets_at(cap, tz, now)
        if delivery.expires_at is not None and until >= delivery.expires_at:
            return ended(claim, State.EXPIRED, reason_of(cap))
        return ended(claim, State.WAITING, reason_of(cap), due_at=until)

    async def _has_counted(self, claim: Claim, type: NotificationType) -> bool:
        """Return whether a digest contains a notification that was counted when it was sent over another channel.

        Only the earliest ones are looked up: they were submitted before the cap was full. That one was sent in another
        digest does not matter: each digest takes a place of its own.
        """
        here = claim.delivery.channel
        elsewhere = {each for each in type.channels if each != here and is_counted(type, each)}
        if claim.notification.digest is None or not elsewhere:
            return False
        for item in await self._parts.digests.digest_items(claim.notification.digest, limit=_DIGEST_COUNTED):
            sent = await self._deliveries(replace(claim.delivery, notification=item.notification.id))
            if any(each.attempts and each.channel in elsewhere for each in sent):
                return True
        return False

    async def _prepare(
        self,
        claim: Claim,
        type: NotificationType,
        known: Known,
        endpoint: Endpoint | None,
        decided: Send,
        now: datetime,
    ) -> Move | Ready:
        """Make the text, and the message that the channel gets."""
        delivery, notification = claim.delivery, claim.notification
        data: dict[str, Any] = json.loads(notification.data)
        count, items = 1, deque([data])
        if notification.digest is not None:
            count, items = await self._digest(notification.digest, delivery.user, type, now)
            if not items:
                return ended(claim, State.SKIPPED, Reason.DIGEST_EMPTY)
            data = items[-1]
            if type.digest is not None and type.digest.leading == "look_back":
                suffix, window = leading_window(type, delivery.user, delivery.channel, data, now)
                await self._parts.caps.admit(notification.id + suffix, delivery.user, [window], now, mode="record")
        recipient, links = known.recipient, self._parts.links
        rendering = Rendering(
            type=type.key,
            channel=delivery.channel,
            user=delivery.user,
            locale=recipient.locale if recipient is not None else "",
            tz=known.zone(self._parts.tz),
            data=data,
            items=tuple(items) if count > 1 else (),
            count=count,
            unsubscribe_url=links.unsubscribe_url(delivery.user, type.category, delivery.channel) if links else "",
        )
        try:
            content = self._parts.templates.render(rendering)
        except Exception as error:
            why = error if isinstance(error, NotifyError) else place_of(error)
            self._log.misconfigured(delivery.channel, f"no text can be made for {type.key}: {why}")
            return ended(claim, State.PARKED, Reason.MISCONFIGURED, error=f"{type.key}: {error!r:.300}")
        job = Job(
            id=delivery.id,
            notification=notification.id,
            type=type.key,
            category=type.category,
            user=delivery.user,
            channel=delivery.channel,
            endpoint=endpoint,
            content=content,
            data=data,
            priority=type.priority,
            expires_at=delivery.expires_at,
            now=now,
            attempt=delivery.attempts + 1,
            locale=rendering.locale,
            collapse=content.tag,
            alert=not decided.silent,
            created_at=notification.created_at,
            is_digest=notification.digest is not None,
        )
        return Ready(claim, type, job if links is None else links.added_to(job))

    async def _digest(
        self, id: str, user: str, type: NotificationType, now: datetime
    ) -> tuple[int, deque[dict[str, Any]]]:
        """Return how much a digest has collected that is still worth sending, and the data of the newest of it."""
        count, newest = 0, deque[dict[str, Any]](maxlen=_DIGEST_SHOWN)
        after, drop_read = 0, type.digest is not None and type.digest.drop_read
        channel = IN_APP if drop_read else None
        while page := await self._parts.digests.digest_items(id, after=after, limit=_DIGEST_PAGE, channel=channel):
            after += len(page)
            read = await read_items(self._parts, user, [each.provider_id for each in page])
            for each in page:
                expires_at = each.notification.expires_at
                if (expires_at is not None and expires_at <= now) or each.provider_id in read:
                    continue
                count += 1
                newest.append(json.loads(each.notification.data))
            if len(page) < _DIGEST_PAGE:
                break
        return count, newest
