"""The rows of a notification on its way through its channels, and the interfaces of the stores that keep them.

For authors of stores. Three kinds of row describe one notification:

- one `Notification`: the type and the data, the same for all recipients;
- one `RecipientRecord` for each recipient: what was decided at submit;
- one `Delivery` for each channel of each recipient. When it is due, a delivery over a channel with endpoints (devices,
  addresses) is replaced by one delivery for each endpoint (`EXPANDED`), so that each has its own state and attempts.

Holds, delays, retries and fallbacks only set the `due_at` of a delivery.

| state | entered by | leaves to |
|---|---|---|
| WAITING | submit, hold, retry, throttle | CLAIMED, CANCELLED |
| CLAIMED | `claim`, once or again | WAITING, SENDING, SKIPPED, EXPIRED, EXPANDED, JOINED, PARKED, CANCELLED, UNKNOWN |
| SENDING | `advance`, before sending | ACCEPTED, DELIVERED, BOUNCED, WAITING, FAILED, GONE, EXPIRED, PARKED, UNKNOWN |
| ACCEPTED | the provider took it | DELIVERED, BOUNCED |
| UNKNOWN | perhaps sent: the outcome cannot be known | ACCEPTED, DELIVERED, BOUNCED, FAILED |
| PARKED | the channel's configuration is wrong | WAITING, CANCELLED |
| all others | a move | final |

The caller decides what becomes of a delivery, by rules that the store does not know (preferences, quiet hours, caps).
The store guarantees that every `Move` happens at most once, and only for the latest claim of the delivery: each claim
raises its **fence**, and a move that names an older one is refused. A delivery that is claimed while
SENDING, because its lease has ended, may or may not have been sent: `Claim.is_ambiguous` is true. It stays in SENDING
until the worker moves it to UNKNOWN, or, where the receiver recognises a repetition, to SENDING again.

A delivery that is WAITING, CLAIMED or PARKED with the reason `IN_DOUBT` may have arrived in an earlier attempt.
Claiming keeps that reason, cancelling makes the delivery UNKNOWN (`cancelled`), and a provider's report may end it
(`is_later`).

A store also keeps preferences, endpoints, counts for caps, closed gates of providers and open digests. These are
separate interfaces, since an application may keep them elsewhere: in its own table of users, or in Redis.

Instants are aware datetimes in UTC, rounded down to milliseconds. Durations are float seconds. What is due is
decided by the `now` that the caller passes; leases are measured by the store's own clock.

The functions exported here are the rules that all stores share: ids, legal steps, merge patches, sliding digests, and
the columns of stores on SQL databases. The decorator `checked` refuses bad arguments of every method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

from ._abilities import SessionEndpoints as SessionEndpoints
from ._arguments import checked as checked
from ._columns import DELIVERY_COLUMNS as DELIVERY_COLUMNS
from ._columns import ENDPOINT_COLUMNS as ENDPOINT_COLUMNS
from ._columns import NOTIFICATION_COLUMNS as NOTIFICATION_COLUMNS
from ._columns import RECIPIENT_COLUMNS as RECIPIENT_COLUMNS
from ._columns import channels_text as channels_text
from ._columns import claims_of as claims_of
from ._columns import delivery_of as delivery_of
from ._columns import delivery_row as delivery_row
from ._columns import endpoint_of as endpoint_of
from ._columns import instant_or_none as instant_or_none
from ._columns import meta_text as meta_text
from ._columns import millis_or_none as millis_or_none
from ._columns import notification_of as notification_of
from ._columns import notification_row as notification_row
from ._columns import recipient_row as recipient_row
from ._records import CapWindow as CapWindow
from ._records import Claim as Claim
from ._records import Delivery as Delivery
from ._records import DeliveryAttempt as DeliveryAttempt
from ._records import DigestItem as DigestItem
from ._records import DigestJoin as DigestJoin
from ._records import Endpoint as Endpoint
from ._records import Move as Move
from ._records import Notification as Notification
from ._records import RecipientRecord as RecipientRecord
from ._records import State as State
from ._records import Submission as Submission
from ._records import Submitted as Submitted
from ._steps import BY_CLAIM as BY_CLAIM
from ._steps import IN_DOUBT as IN_DOUBT
from ._steps import LATER as LATER
from ._steps import OUTCOMES as OUTCOMES
from ._steps import PROMISING as PROMISING
from ._steps import STOPPABLE as STOPPABLE
from ._steps import cancelled as cancelled
from ._steps import cap_prefix as cap_prefix
from ._steps import check_move as check_move
from ._steps import check_submission as check_submission
from ._steps import check_texts as check_texts
from ._steps import delivery_id as delivery_id
from ._steps import digest_id as digest_id
from ._steps import due_after as due_after
from ._steps import endpoint_id as endpoint_id
from ._steps import exact as exact
from ._steps import exact_or_none as exact_or_none
from ._steps import instant as instant
from ._steps import is_later as is_later
from ._steps import judge as judge
from ._steps import merge_patch as merge_patch
from ._steps import millis as millis
from ._steps import next_generation as next_generation
from ._steps import runs as runs
from ._steps import slid as slid
from ._steps import span as span


@runtime_checkable
class DispatchStore(Protocol):
    """Keeps notifications and their deliveries, and lets any number of workers share them.

    Raises, for every method: `BackendUnavailableError` if a read failed; `PushRejectedError` if a write was certainly
    not done; `PushUncertainError` if that is unknown. All calls are safe to repeat, since every write is either keyed
    or fenced. `UsageError` for a bad argument; `ClosedError` after `aclose`.

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

        Order: none between submissions.    Cancellation: stored or not; repeat it with the same key.
        Cost: one transaction, proportional to the rows.
        """

    @abstractmethod
    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """Take deliveries that are due, for `lease` seconds, so that no other worker takes them.

        Args:
            now: deliveries that are due by then are taken, highest priority first, then earliest due.
            lease: seconds by the store's clock; a delivery that has not been moved by then can be claimed again.
            limit: how many at most.
            channels: only these; None: all.

        Cancellation: some may be claimed; they are claimed again after the lease.
        Cost: one transaction, proportional to the deliveries taken plus those that other workers hold or have left; if
            all are zero, one indexed read for each channel and priority, however many of other channels wait.
        """

    @abstractmethod
    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """Make the moves, in one transaction, and return for each whether it was made.

        Moves of one call are made in their order. The outcome of each attempt is added to the list of attempts, once,
        even if the move is refused. In the same transaction, deliveries that wait for this one (`Delivery.after`) get
        their `due_at`.

        Raises:
            UsageError: no worker can make this move.

        Cancellation: made or not; made moves are refused when repeated.
        Cost: one transaction, proportional to the moves.
        """

    @abstractmethod
    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        """Record what a provider or an operator reports later, if the state table allows the step; no claim is needed.

        Deliveries that wait for this one get their `due_at`, as in `advance`. A delivery that becomes WAITING again is
        due now. If the delivery is already in the state `to`, nothing changes.

        Returns:
            The delivery as it is now; None: there is none with this id.

        Cancellation: done or not; safe to repeat.    Cost: one transaction.
        """

    @abstractmethod
    async def cancel(
        self,
        notification: str,
        now: datetime,
        *,
        user: str | None = None,
        channel: str | None = None,
        reason: str = "cancelled",
        joins: bool = True,
    ) -> int:
        """Cancel deliveries that are WAITING, CLAIMED or PARKED, leave open digests, and return how many were stopped.

        Deliveries in SENDING are not stopped. Those in doubt are not sent again, and become UNKNOWN.

        Args:
            notification: its id.
            now: the present time.
            user: of this recipient only.
            channel: over this channel only; digests that are also sent over others keep the notification.
            reason: kept with the deliveries.
            joins: whether the notification leaves open digests.

        Cancellation: done or not; safe to repeat.    Cost: proportional to what is stopped.
        """


@runtime_checkable
class DispatchRecords(Protocol):
    """Reads what became of notifications, and removes old ones. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def record(
        self, notification: str, user: str
    ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[DeliveryAttempt]] | None:
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

        With `channel`, its parked deliveries are WAITING again. Deliveries that wait for another channel, or for their
        delay after it, stay as they are. Without `channel`, so do those that have been tried before: a user who changes
        preferences must not speed up retries.

        Raises:
            UsageError: neither a user nor a channel was given.

        Cancellation: some may be due; safe to repeat.    Cost: proportional to what is made due; several transactions.
        """

    @abstractmethod
    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        """Remove at most `limit` notifications created before `before` that have no open delivery; return how many.

        Notifications in a digest stay until it is sent. Also removes idempotency keys, retired endpoints and gates that
        ended before `before`, endpoints of sessions last seen before it, and cap counts expired by the store's clock.
        """


@runtime_checkable
class OpenChannels(Protocol):
    """Lists the channels of open deliveries, so that workers end those of channels that have been removed."""

    @abstractmethod
    async def open_channels(self) -> Sequence[str]:
        """Return the channels of all open deliveries, each once. Errors as those of `DispatchRecords`."""


@runtime_checkable
class DeliveryTracking(Protocol):
    """Records that recipients have opened or clicked messages. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def track(self, id: str, act: Literal["opened", "clicked"], now: datetime) -> Delivery | None:
        """Set `opened_at` or `clicked_at` of a delivery if it is unset; return the delivery; None: the id is unknown.

        A click also sets `opened_at`.
        """


@runtime_checkable
class PreferenceStore(Protocol):
    """Keeps the preferences of users, as JSON. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        """Return the preferences of those users who have any, as JSON objects."""

    @abstractmethod
    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        """Apply a JSON merge patch (RFC 7386) in one transaction and return the result.

        Who changed what, when and from where is kept for `consents`.

        Raises:
            UsageError: the patch is not a JSON object.
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
        """Return the endpoints in use (`retired`: all) of the users that have any, sorted by channel, then id."""

    @abstractmethod
    async def endpoint(self, id: str) -> Endpoint | None:
        """Return one endpoint, in use or retired."""

    @abstractmethod
    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        """Stop using an endpoint if it still has this generation (0: any); return whether that was done."""

    @abstractmethod
    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        """Record a success (sets `failures` to 0) or an unclear refusal (adds 1); None: of another generation."""


@runtime_checkable
class CapStore(Protocol):
    """Counts notifications for frequency caps. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def admit(
        self,
        notification: str,
        user: str,
        windows: Sequence[CapWindow],
        now: datetime,
        *,
        mode: Literal["check", "record"] = "check",
    ) -> int:
        """Check all windows, then count in all of them, in one atomic step; the verdict is kept.

        A notification that was admitted is admitted again, for other channels, devices and retries, and counts once. A
        refusal is kept too, until `refund`, so that a notification is not sent over some of its channels only.

        Args:
            notification: its id.
            user: the recipient, to whom all windows belong.
            windows: at least one.
            now: the present time: entries that have expired by then are not counted.
            mode: `record` counts and admits, regardless of the limits.

        Returns:
            -1: admitted. Otherwise the index of the first window that is full; nothing was counted.
        """

    @abstractmethod
    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """Forget the verdict, and the count if it was admitted: for a notification of which nothing has been sent."""


@runtime_checkable
class GateStore(Protocol):
    """Keeps the time until which each provider throttles. Errors as those of `DispatchStore`."""

    @abstractmethod
    async def close_gate(self, gate: str, until: datetime) -> None:
        """Let nothing be sent through `gate` before `until`; of several calls, the latest time counts."""

    @abstractmethod
    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """Return the gates that are closed at `now`, and until when."""


@runtime_checkable
class DigestStore(Protocol):
    """Closes digests and reads what they have collected; `submit` and `advance` open and join them.

    A digest is open until it is closed; later notifications open the next generation with the same key. Joining twice
    changes nothing. Errors as those of `DispatchStore`.
    """

    @abstractmethod
    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        """Close digests that are due, store the notification of each in the same transaction, and return how many.

        The notification of a digest has the digest's id (see `digest_id`), its type, `{}` as data, one recipient with
        the address given for the notification that joined last, and for each channel one delivery, due now. The join
        that brings a digest to its limit closes it in the same way.
        """

    @abstractmethod
    async def digest_items(
        self, digest: str, *, after: int = 0, limit: int = 500, channel: str | None = None
    ) -> Sequence[DigestItem]:
        """Return the notifications that a digest has collected, without cancelled ones, in order of joining.

        Args:
            digest: its id: `Notification.digest`.
            after: how many to skip.
            limit: how many to return at most.
            channel: one without endpoints: each item has the `provider_id` of its delivery over it; None: none has one.
        """
