"""Pure: the values that a store of deliveries keeps. `notify.dispatch.abc` explains and exports them."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that some databases cannot store."""


class State(enum.IntEnum):
    """The state of a delivery. States below 10 are open: a worker takes the delivery again at `due_at`."""

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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A device or address of a user on one channel. The repr does not show the address.

    Attributes:
        user: its owner; empty: the `Recipient` that it comes with, or only a session.
        channel: the name of the channel that reaches it, such as `"web_push"`.
        address: an e-mail address, a telephone number, a device token, the URL of a push subscription.
        kind: the kind of address, if a channel has several, such as `"token"` and `"topic"` of FCM.
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

    user: str = ""
    channel: str = ""
    address: str = field(default="", repr=False)
    kind: str = ""
    meta: Mapping[str, str] = field(default_factory=dict, repr=False)
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
    """What is the same for all recipients. The repr does not show the data.

    Attributes:
        id: names it; given by the dispatcher.
        type: the key of its type.
        data: JSON, as encoded at submit.
        created_at: when it was submitted.
        expires_at: after this it is not sent any more; None: no limit.
        digest: the id of the digest that it delivers; None: it is not a digest.
        meta: the trace context and other values that travel with it, a JSON object.
    """

    id: str
    type: str
    data: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    digest: str | None = None
    meta: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class RecipientRecord:
    """What was decided for one recipient. The repr does not show the address.

    Attributes:
        notification: the id of the notification.
        user: the recipient.
        decisions: JSON: one entry for each channel, with its reason and the layer that decided.
        address: JSON: zone, locale and endpoints of a recipient that were given at submit; empty: looked up when due.
    """

    notification: str
    user: str
    decisions: bytes = b"[]"
    address: bytes = field(default=b"", repr=False)


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
        after: another channel of this notification and user. When the first delivery over it becomes ACCEPTED,
            DELIVERED or UNKNOWN, this one is due `delay` seconds later. Once all of them have ended in other states,
            after a bounce too, this one is due at once, unless a worker has had it before.
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
        closes_at: when the digest closes, if this opens it.
        due_at: when it is sent: `closes_at`, or the end of the quiet hours after it.
        slides_until: joining an open digest moves its end to `closes_at`, but to no later than this many seconds after
            it was opened; None: its end stays.
        limit: the number of notifications with which it closes at once; None: no limit.
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
        notification: stored unless it exists, as it does from the second batch of a large audience on.
        recipients: those that have a record already are skipped, with their deliveries and joins.
        deliveries: of these recipients.
        joins: notifications of these recipients that wait for a digest.
        tenant: the scope of `key`.
        key: an idempotency key; None: none.
        fingerprint: of the request; a repeated key with another one is refused.
        keep_until: the key counts for notifications created before this, and may be removed afterwards; None: always.
        cursor: how far the audience has been submitted; None: this is not a part of an audience. Later parts have the
            same key and notification, and are stored, too.
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
        cursor: how far the audience of that notification has been submitted; None: it is not a part of an audience.
    """

    notification: str
    is_replay: bool
    cursor: str | None = None


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
        to: the state afterwards. SENDING counts an attempt, and needs a lease that has not ended; a delivery that was
            found in SENDING may be sent again, once by each claim.
        due_at: when a worker should take it again, for WAITING; None: now.
        reason: stored with the state.
        provider_id: stored if it is not empty.
        refund: the attempt that began does not count (a throttled one).
        children: for EXPANDED: one delivery for each endpoint.
        join: for JOINED: the digest that takes it.
        error: text for people, kept in the list of attempts: no address, no secret.
        lease: for SENDING: a new lease, in seconds from now by the store's clock; None: that of the claim.
        before_sending: it was decided before sending began. If it is refused, it is not listed as a late outcome.

    NUL characters and lone surrogates in its texts are replaced, since some databases cannot store them.
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
    lease: float | None = None
    before_sending: bool = False

    def __post_init__(self) -> None:
        if not (self.reason or self.provider_id or self.error):
            return
        texts = f"{self.reason}{self.provider_id}{self.error}"  # a provider may have said anything
        if "\0" in texts or not texts.isascii():
            for name in ("reason", "provider_id", "error"):
                text = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", getattr(self, name))
                object.__setattr__(self, name, text)


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One outcome of sending, even if it came too late to change the delivery.

    Attributes:
        delivery: the id of the delivery.
        at: when the outcome was stored.
        fence: of the claim.
        state: the state to which the worker wanted to move the delivery.
        reason: as in `Move`.
        error: as in `Move`.
        is_late: it did not change the delivery: there was a later claim, or a report of the provider came first.
    """

    delivery: str
    at: datetime
    fence: int
    state: State
    reason: str
    error: str
    is_late: bool


@dataclass(frozen=True, slots=True)
class CapWindow:
    """One period over which a frequency cap counts.

    A notification that is counted leaves its bucket at `expires_at`. A calendar cap has one bucket for each period, and
    `expires_at` is after its end. A cap over seconds has a single bucket, with the notifications of the last seconds.

    Attributes:
        bucket: names it: the user, the cap and the period, such as `alice/promo/day/2027-01-05`; it begins with
            `cap_prefix` of the user.
        limit: how many notifications may be in the bucket at a time.
        expires_at: when a notification that is counted now leaves it.
    """

    bucket: str
    limit: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class DigestItem:
    """One notification in a digest.

    Attributes:
        joined_at: when it joined.
        notification: what it is.
        provider_id: `Delivery.provider_id` of its delivery to the same user over the channel asked for; may be empty.
    """

    joined_at: datetime
    notification: Notification
    provider_id: str = ""
