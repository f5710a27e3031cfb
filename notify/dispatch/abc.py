"""What is stored of a notification on its way through its channels, and the interfaces of the stores that keep it.

Written for authors of stores. Three kinds of row describe one notification:

- one `Notification`: the type and the data, the same for all recipients;
- one `RecipientRecord` for each recipient: what was decided at submit;
- one `Delivery` for each channel of each recipient. When it is due, a delivery over a channel with endpoints (devices,
  addresses) is replaced by one delivery for each endpoint (`EXPANDED`), so that each has its own state and attempts.

Holds, delays, retries and fallbacks are all the same thing: the `due_at` of a delivery.

| state | entered by | leaves to |
|---|---|---|
| WAITING | submit, hold, retry, throttle | CLAIMED, CANCELLED |
| CLAIMED | `claim`, again after its lease | SENDING, WAITING, SKIPPED, EXPIRED, EXPANDED, JOINED, CANCELLED |
| SENDING | `advance`, before the first byte is sent | ACCEPTED, WAITING, FAILED, GONE, PARKED, UNKNOWN |
| ACCEPTED | the provider took it | DELIVERED, BOUNCED |
| UNKNOWN | perhaps sent: the outcome cannot be known | ACCEPTED, DELIVERED, BOUNCED, FAILED |
| PARKED | the channel's configuration is wrong | WAITING, CANCELLED |
| all others | a move | final |

What becomes of a delivery depends on rules that the store does not know (preferences, quiet hours, caps). The store
guarantees that every `Move` happens at most once, and only for the latest claim of the delivery: each claim raises its
**fence**, and a move that names an older one is refused. Whatever was found in SENDING after its lease may or may not
have been sent; `Claim.is_ambiguous` says so.

A store also keeps preferences, endpoints, counts for caps, closed gates of providers and open digests. These are
separate interfaces, since an application may keep them elsewhere: in its own table of users, or in Redis.

Instants are aware datetimes in UTC, exact to the millisecond. Durations are float seconds. Policy decides by the `now`
that the caller passes; leases are measured by the store's own clock.
"""

from __future__ import annotations

import enum
import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable


class State(enum.IntEnum):
    """Where a delivery stands. Those below 10 are open: a worker will come back to them when `due_at` has come."""

    WAITING = 0
    CLAIMED = 1
    SENDING = 2
    ACCEPTED = 10
    DELIVERED = 11
    BOUNCED = 12
    EXPANDED = 13
    FAILED = 20
    EXPIRED = 21
    CANCELLED = 22
    SKIPPED = 23
    JOINED = 24
    UNKNOWN = 25
    GONE = 26
    PARKED = 27

    @property
    def is_open(self) -> bool:
        """Whether a worker still has to do something."""
        return self < State.ACCEPTED


def delivery_id(notification: str, user: str, channel: str, endpoint: str = "") -> str:
    """Return the id of a delivery: 32 characters that providers accept as a message id, a topic and a collapse key."""
    return _digest(notification, user, channel, endpoint)


def endpoint_id(channel: str, kind: str, address: str) -> str:
    """Return the id of an endpoint, from which its address cannot be read."""
    return _digest(channel, kind, address)


def _digest(*parts: str) -> str:
    """Hash the parts, so that no other division of the same characters has the same result."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A device or address of a user on one channel.

    Attributes:
        user: whose it is; empty while it belongs to a session only.
        channel: the name of the channel that reaches it, such as `"web_push"`.
        address: an e-mail address, a telephone number, a device token, the URL of a push subscription.
        kind: what sort of address, where a channel has several, such as `"token"` and `"topic"` of FCM.
        meta: what else the channel needs, such as the keys of a push subscription.
        session: the session in which it was registered, before login.
        id: `endpoint_id`, which names it in URLs and logs without its address. Given by `register`.
        generation: raised by each registration, so that an old answer does not retire a device that came back.
        created_at: when it was registered first; None: not stored.
        last_seen_at: when it was registered last.
        last_success_at: when a provider accepted something for it last; None: never.
        failures: how many unclear refusals in a row.
        failing_since: when the first of these happened.
        retired_at: since when it is no longer used; None: in use.
        reason: why it was retired.
    """

    user: str
    channel: str
    address: str
    kind: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    session: str = ""
    id: str = ""
    generation: int = 0
    created_at: datetime | None = None
    last_seen_at: datetime | None = None
    last_success_at: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    retired_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """What is the same for all recipients.

    Attributes:
        id: names it; given by the dispatcher.
        type: the key of its type.
        data: JSON, as encoded at submit.
        created_at: when it was submitted.
        expires_at: after this it is not sent any more; None: no limit.
        digest: the id of the digest that it delivers; None: it is not a digest.
        meta: trace context and what else travels with it, a JSON object.
    """

    id: str
    type: str
    data: bytes
    created_at: datetime
    expires_at: datetime | None = None
    digest: str | None = None
    meta: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class RecipientRecord:
    """What was decided for one recipient.

    Attributes:
        notification: the id of the notification.
        user: the recipient.
        decisions: JSON: one entry for each channel, with its reason and the layer that decided.
        address: JSON: zone, locale and endpoints of a recipient that were given at submit; empty: looked up when due.
    """

    notification: str
    user: str
    decisions: bytes = b"[]"
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification to one recipient over one channel, and to one endpoint once it is due.

    Attributes:
        id: `delivery_id`, which names it towards providers, in callbacks and in links.
        notification: the id of the notification.
        user: the recipient.
        channel: the name of the channel.
        endpoint: the id of the endpoint; empty: the delivery of a whole channel.
        state: see `State`.
        due_at: when a worker should take it; None: when `after` says so.
        expires_at: after this it is not sent any more; None: no limit.
        priority: among deliveries that are due, higher ones are claimed first.
        after: another channel of this notification and user. When a delivery over it becomes ACCEPTED, this one is due
            `delay` seconds later; when it ends in any other final state than EXPANDED, this one is due at once.
        delay: see `after`, in seconds.
        fence: how often it was claimed.
        attempts: how often sending began.
        reason: why it is in this state, a value of `Reason` or a code of the provider.
        provider_id: what the provider calls it.
        updated_at: when it came into this state; None: not stored yet.
        opened_at: when the recipient opened it, if that is tracked.
        clicked_at: when the recipient followed its link, if that is tracked.
    """

    id: str
    notification: str
    user: str
    channel: str
    endpoint: str = ""
    state: State = State.WAITING
    due_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int = 0
    after: str = ""
    delay: float = 0.0
    fence: int = 0
    attempts: int = 0
    reason: str = ""
    provider_id: str = ""
    updated_at: datetime | None = None
    opened_at: datetime | None = None
    clicked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DigestJoin:
    """One notification that is to be sent in a digest.

    Attributes:
        key: which digest: type, recipient, channels and the value of the digest's key, joined.
        notification: the id of the notification.
        user: the recipient.
        type: the key of the type.
        channels: the channels over which the digest will be sent.
        closes_at: when the digest that this opens ends.
        due_at: when it is sent: `closes_at`, or the end of the quiet hours after it.
        slides_until: a digest that is open already has its end moved to `closes_at`, but no later than this counted
            from its opening, in seconds; None: its end stays.
        limit: how many notifications close it at once; None: no limit.
    """

    key: str
    notification: str
    user: str
    type: str
    channels: Sequence[str]
    closes_at: datetime
    due_at: datetime
    slides_until: float | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What one call of `submit` stores, in one transaction.

    Attributes:
        notification: stored unless it exists already, as it does for the second batch of a large audience.
        recipients: those that have a record already are skipped, with their deliveries and joins.
        deliveries: of these recipients.
        joins: notifications of these recipients that wait for a digest.
        tenant: the scope of `key`.
        key: an idempotency key; None: none.
        fingerprint: of the request; a repeated key with another one is refused.
        keep_until: when the key may be forgotten.
        cursor: how far the audience has been submitted; None: this is not a part of an audience.
    """

    notification: Notification
    recipients: Sequence[RecipientRecord]
    deliveries: Sequence[Delivery]
    joins: Sequence[DigestJoin] = ()
    tenant: str = ""
    key: str | None = None
    fingerprint: str = ""
    keep_until: datetime | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to `submit`.

    Attributes:
        notification: the id under which it is stored: that of the first submission with this key.
        is_replay: the key was used before for the same request, so nothing was stored.
    """

    notification: str
    is_replay: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that a worker has claimed, with what is needed to send it.

    Attributes:
        delivery: with the fence of this claim; its state is CLAIMED, or SENDING if `is_ambiguous`.
        notification: what is sent.
        recipient: what was decided for this recipient.
        is_ambiguous: an earlier worker began to send it and reported no outcome before its lease ended.
    """

    delivery: Delivery
    notification: Notification
    recipient: RecipientRecord
    is_ambiguous: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A step of one claimed delivery.

    Attributes:
        id: of the delivery.
        fence: of the claim. With an older one, or in another state, the move is refused.
        to: the state afterwards. SENDING counts an attempt, and needs a lease that has not ended.
        due_at: when a worker should take it again, for WAITING.
        reason: stored with the state.
        provider_id: stored if it is not empty.
        refund: the attempt that began does not count (a throttled one).
        children: for EXPANDED: the deliveries to each endpoint.
        join: for JOINED: the digest that takes it.
        error: text for people, kept in the list of attempts: no address, no secret.
    """

    id: str
    fence: int
    to: State
    due_at: datetime | None = None
    reason: str = ""
    provider_id: str = ""
    refund: bool = False
    children: Sequence[Delivery] = ()
    join: DigestJoin | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One outcome of sending, also one that came too late to change the delivery.

    Attributes:
        delivery: the id of the delivery.
        at: when the outcome was stored.
        fence: of the claim.
        state: what the worker wanted the delivery's state to be.
        reason: as in `Move`.
        error: as in `Move`.
        is_late: the claim was no longer the latest, so the delivery's state was not changed.
    """

    delivery: str
    at: datetime
    fence: int
    state: State
    reason: str
    error: str
    is_late: bool


@runtime_checkable
class DispatchStore(Protocol):
    """Keeps notifications and their deliveries, and lets any number of workers share them.

    Raises, for every method: `BackendUnavailableError` if a read failed; `PushRejectedError` if a write was certainly
    not done; `PushUncertainError` if that is unknown: all of them are safe to repeat, since every write is either
    keyed or fenced. `ClosedError` after `aclose`.

    Concurrency, for every method: any number of tasks and processes.
    """

    @abstractmethod
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        """Store a notification with its recipients, deliveries and joins: all of it or nothing.

        Args:
            submission: see `Submission`.
            connection: a connection of the store's driver with an open transaction. The rows are written in a
                savepoint of it and exist once it is committed.

        Raises:
            UsageError: the key was used for another request; or this store takes no `connection`.
            (the errors of the class)

        Order: none between submissions.    Cancellation: stored or not; repeat it with the same key.
        Cost: one transaction, proportional to the rows.
        """

    @abstractmethod
    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """Take deliveries that are due, for `lease` seconds, so that no other worker takes them.

        Args:
            now: what is due by then is taken, highest priority first, then earliest due.
            lease: seconds by the store's clock, after which what has not been moved on is claimed again.
            limit: how many at most.
            channels: only these; None: all.

        Cancellation: some may be claimed; they are claimed again after the lease.
        Cost: one transaction, proportional to what is taken; one indexed read when nothing is due.
        """

    @abstractmethod
    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """Make the moves, in one transaction, and return for each whether it was made.

        A move out of SENDING that is refused is kept in the list of attempts all the same. In the same transaction,
        deliveries that wait for this one (`Delivery.after`) get their `due_at`.

        Cancellation: made or not; made moves are refused when repeated.
        Cost: one transaction, proportional to the moves.
        """

    @abstractmethod
    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        """Record what a provider or an operator reports later, if the state table allows the step.

        It needs no claim. A BOUNCED one makes deliveries that wait for it due.

        Returns:
            The delivery as it is now; None: there is none with this id.

        Cancellation: done or not; safe to repeat.    Cost: one transaction.
        """

    @abstractmethod
    async def cancel(
        self, notification: str, *, user: str | None = None, channel: str | None = None, reason: str = "cancelled"
    ) -> int:
        """Cancel what has not begun to be sent: deliveries that are WAITING, CLAIMED or PARKED; leave open digests.

        Returns:
            How many deliveries and joins were stopped. Those in SENDING are not.

        Cancellation: done or not; safe to repeat.    Cost: proportional to what is stopped.
        """


@runtime_checkable
class DispatchRecords(Protocol):
    """Reading what became of notifications, and removing old ones. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def record(
        self, notification: str, user: str
    ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[Attempt]] | None:
        """Return everything about one notification to one user; None: there is no such notification or recipient.

        Deliveries are sorted by channel, then endpoint; attempts by time.
        """

    @abstractmethod
    async def delivery(self, id: str) -> Claim | None:
        """Return one delivery with its notification and recipient, not claimed; None: there is none with this id."""

    @abstractmethod
    async def stuck(self, states: Sequence[State], *, after: str = "", limit: int = 100) -> Sequence[Delivery]:
        """Return deliveries in these states, sorted by id, those after the id `after`: for operators."""

    @abstractmethod
    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        """Make waiting deliveries of a user or channel due now, since their rules have changed; return how many.

        With a channel, parked ones of it are waiting again. Those that wait for another channel stay as they are.
        """

    @abstractmethod
    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        """Remove notifications created before `before` of which no delivery is open; return how many, at most `limit`.

        Idempotency keys whose time is over and endpoints retired before `before` are removed with them.
        """


@runtime_checkable
class PreferenceStore(Protocol):
    """Keeps the preferences of users, as JSON. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        """Return the preferences of those users who have any."""

    @abstractmethod
    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        """Apply a JSON merge patch (RFC 7386) in one transaction and return the result.

        Who changed what, when and from where is kept for `consents`.
        """

    @abstractmethod
    async def consents(self, user: str) -> Sequence[tuple[datetime, str, str, bytes]]:
        """Return the changes of a user: when, by whom, from where, the patch; oldest first."""


@runtime_checkable
class EndpointStore(Protocol):
    """Keeps endpoints. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        """Store an endpoint, or renew it: same channel, kind and address, even if it was another user's or retired.

        The result has its `id`, a raised `generation`, no failures, and is in use.
        """

    @abstractmethod
    async def endpoints(self, users: Sequence[str], *, retired: bool = False) -> Mapping[str, Sequence[Endpoint]]:
        """Return the endpoints of each user that has any in use (`retired`: of all), sorted by channel, then id."""

    @abstractmethod
    async def endpoint(self, id: str) -> Endpoint | None:
        """Return one endpoint, in use or retired."""

    @abstractmethod
    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        """Stop using an endpoint if it is still of this generation (0: of any); return whether that was done."""

    @abstractmethod
    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        """Record a success (failures become 0) or an unclear refusal (one more); None: not of this generation."""


@dataclass(frozen=True, slots=True)
class CapWindow:
    """One period over which a frequency cap counts.

    Attributes:
        bucket: names it: the user, the cap and the period, such as `alice/promo/day/2027-01-05`.
        limit: how many notifications it lets through.
        expires_at: when the count may be forgotten.
    """

    bucket: str
    limit: int
    expires_at: datetime


@runtime_checkable
class CapStore(Protocol):
    """Counts notifications for frequency caps. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], *, mode: Literal["check", "record"] = "check"
    ) -> int:
        """Check all windows, then count in all of them, in one atomic step; the verdict is kept.

        A notification that was admitted is admitted again and counts once: for other channels, other devices, retries.
        A refusal is kept too, until `refund`, so that a notification is never sent over half of its channels.

        Args:
            notification: its id.
            user: the recipient, to whom all windows belong.
            windows: at least one.
            mode: `record` counts and admits whatever the limits say.

        Returns:
            -1: admitted. Otherwise the index of the first window that is full; nothing was counted.
        """

    @abstractmethod
    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """Forget the verdict, and the count if it was admitted, since certainly nothing has been sent."""


@runtime_checkable
class GateStore(Protocol):
    """Keeps until when a provider wants to be left alone. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def close_gate(self, gate: str, until: datetime) -> None:
        """Send nothing through `gate` until then. The latest time given counts."""

    @abstractmethod
    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """Return the gates that are closed at `now`, and until when."""


@dataclass(frozen=True, slots=True)
class DigestItem:
    """One notification in a digest: when it joined, and what it is."""

    joined_at: datetime
    notification: Notification


@runtime_checkable
class DigestStore(Protocol):
    """Closes digests and reads what they have collected; `submit` and `advance` open and join them.

    A digest is open until it is closed; what comes later opens the next generation with the same key. Joining twice
    changes nothing. Errors as those of `DispatchStore`.
    """

    @abstractmethod
    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        """Close digests that are due and store for each, in the same transaction, its notification.

        That notification has the id `<digest>:<generation>`, the digest's type, no data, `Notification.digest`, one
        recipient and one delivery, due at `now`, for each channel.

        Returns:
            How many were closed.
        """

    @abstractmethod
    async def digest_items(self, digest: str, *, after: int = 0, limit: int = 500) -> Sequence[DigestItem]:
        """Return what a digest has collected and what is not cancelled, in order of joining, from the `after`-th on."""
