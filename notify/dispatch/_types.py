"""Pure: types of notifications and what they consist of, checked when they are made.

A type says everything about a kind of notification that is the same for all recipients. It is a value: a program makes
it, or a TOML file (see `TypeRegistry.from_toml`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from notify.errors import UsageError

from ._channel import Priority
from ._checks import (
    check_all,
    check_choice,
    check_count,
    check_days,
    check_known,
    check_name,
    check_names,
    check_seconds,
    check_text,
    check_wall,
    keep,
)
from ._zones import check_zone
from .abc import Endpoint

Category: TypeAlias = Literal["transactional", "system", "marketing"]
Per: TypeAlias = Literal["day", "week", "month"]

IN_APP: Final = "in_app"
"""The name of the channel of the inbox: the one that needs no endpoint, and that others can be a fallback of."""

PRIORITIES: Final[tuple[Priority, ...]] = ("low", "normal", "high", "critical")
"""From weak to strong."""

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """When a channel is used at all. A channel without one is always used.

    Attributes:
        use: `"away"`: unless the recipient is connected, or has read the item; `"unread"`: unless the recipient has
            read or dismissed the item; `"failed"`: unless another channel was accepted.
        after: seconds to wait after the other channel was accepted. If that fails or is skipped, there is no waiting.
        of: the other channel; the inbox unless `use` is `"failed"`.
    """

    use: Literal["away", "unread", "failed"]
    after: float = 0.0
    of: str = IN_APP

    def __post_init__(self) -> None:
        check_choice("Fallback.use", self.use, ("away", "unread", "failed"))
        check_seconds("Fallback.after", self.after, zero=True)
        check_name("Fallback.of", self.of)
        if self.use == "failed" and self.of == IN_APP:
            raise UsageError("Fallback.of: name the channel for which this one steps in, such as of='push'")
        if self.use != "failed" and self.of != IN_APP:
            raise UsageError(
                f"Fallback.of is {self.of!r}, but only of {IN_APP!r} it is known what was read; leave it out, or write "
                "use='failed'"
            )


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """How many notifications a recipient gets in a period.

    Attributes:
        limit: how many at most.
        per: `"day"`, `"week"` (from Monday) or `"month"` of the recipient's calendar; a number: the last seconds,
            whenever they began.
        scope: what is counted together: each type by itself, all types of the category that have such a cap, or all
            types that have such a cap.
    """

    limit: int
    per: Per | float = "day"
    scope: Literal["type", "category", "user"] = "type"

    def __post_init__(self) -> None:
        check_count("FrequencyCap.limit", self.limit)
        if isinstance(self.per, str):
            check_choice("FrequencyCap.per", self.per, get_args(Per), "or a number of seconds")
        else:
            check_seconds("FrequencyCap.per", self.per)
        check_choice("FrequencyCap.scope", self.scope, ("type", "category", "user"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """How notifications are collected and sent together. Give either `window` or `every`.

    Attributes:
        window: seconds from the first notification to the end. With `ceiling`: from the latest one.
        ceiling: the most seconds from the first notification to the end, if each one moves the end.
        every: the end is a time of the recipient's calendar: once a day, a week, a month.
        at: that time.
        days: the days of the week, for `every="week"`, such as `("mon", "thu")`.
        day: the day of the month, for `every="month"`; the last one where the month is shorter.
        limit: how many notifications end it at once; None: no limit.
        key: the field of the data by whose value digests are kept apart, with dots for inner fields; empty: one for
            the whole type.
        leading: `"first"`: one is sent at once if `window` seconds before it none of its key was sent or collected,
            and is not part of the digest of those that follow; `"look_back"`: the same with `look_back` seconds, and
            a digest that was sent counts, too; empty: each one is collected.
        look_back: see `leading`, in seconds.
        channels: which channels collect; None: all but the inbox.
        drop_read: leave out what has been read by then.
    """

    window: float | None = None
    ceiling: float | None = None
    every: Per | None = None
    at: time = time(9)
    days: Collection[str] = ("mon",)
    day: int = 1
    limit: int | None = None
    key: str = ""
    leading: Literal["", "first", "look_back"] = ""
    look_back: float | None = None
    channels: Collection[str] | None = None
    drop_read: bool = False

    def __post_init__(self) -> None:
        if (self.window is None) == (self.every is None):
            raise UsageError("Digest needs one end: window= in seconds, or every='day', 'week' or 'month'")
        if self.window is not None:
            check_seconds("Digest.window", self.window)
        else:
            check_choice("Digest.every", self.every, get_args(Per))
        if self.ceiling is not None:
            check_seconds("Digest.ceiling", self.ceiling)
            if self.window is None or self.ceiling <= self.window:
                raise UsageError(f"Digest.ceiling must be greater than window={self.window}, not {self.ceiling}")
        check_wall("Digest.at", self.at)
        keep(self, days=check_days("Digest.days", self.days))
        check_count("Digest.day", self.day, most=31)
        if self.limit is not None:
            check_count("Digest.limit", self.limit, least=2)
        if self.channels is not None:
            keep(self, channels=check_names("Digest.channels", self.channels))
        self._check_leading()

    def _check_leading(self) -> None:
        check_choice("Digest.leading", self.leading, ("", "first", "look_back"))
        if (self.look_back is None) == (self.leading == "look_back"):
            raise UsageError("Digest.look_back= and leading='look_back' belong together; give both or neither")
        if self.look_back is not None:
            check_seconds("Digest.look_back", self.look_back)
        if self.leading == "first" and self.window is None:
            raise UsageError("Digest.leading='first' needs a window= in seconds, which begins with the first")

    @property
    def longest(self) -> float:
        """The most seconds that a notification waits in it, quiet hours aside."""
        nominal = {"day": _DAY, "week": 7 * _DAY, "month": 31 * _DAY}
        return self.ceiling or self.window or nominal[str(self.every)]


@dataclass(frozen=True, slots=True)
class NotificationType:
    """A kind of notification.

    Attributes:
        key: names it, in code, preferences and stored rows: `"comment.created"`.
        channels: the names of the channels that it may use, in the order in which `Plan` lists them.
        category: groups types in preferences. `"marketing"` needs `opt_in` and `caps`.
        priority: what is sent first among what is due. `"critical"` is exempt from caps, and usually from quiet hours.
        ttl: seconds after which it has become worthless; None: no limit.
        caps: how many of it a recipient gets in a period.
        over_cap: what happens to more: it is skipped, held until the period is over, or goes to the inbox only.
        opt_in: the name of a consent without which it is not sent at all; None: none is needed.
        mandatory: whether preferences cannot switch it off: on all channels, or on those named.
        digest: how it is collected; None: each one is sent by itself.
        fallback: by channel, when it is used at all; a channel without an entry is always used.
        quiet_hours: `"ignore"` sends at any hour.
        schema: called with the data at submit; what it raises refuses the submission.
    """

    key: str
    channels: Sequence[str] = field(kw_only=True)
    category: Category = field(default="transactional", kw_only=True)
    priority: Priority = field(default="normal", kw_only=True)
    ttl: float | None = field(default=None, kw_only=True)
    caps: Sequence[FrequencyCap] = field(default=(), kw_only=True)
    over_cap: Literal["skip", "hold", "in_app"] = field(default="skip", kw_only=True)
    opt_in: str | None = field(default=None, kw_only=True)
    mandatory: bool | Collection[str] = field(default=False, kw_only=True)
    digest: Digest | None = field(default=None, kw_only=True)
    fallback: Mapping[str, Fallback] = field(default_factory=dict, kw_only=True, hash=False)
    quiet_hours: Literal["obey", "ignore"] = field(default="obey", kw_only=True)
    schema: Callable[[Any], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("NotificationType.key", self.key)
        what = f"the type {self.key!r}"
        keep(self, channels=check_names(f"{what}: channels", self.channels))
        if not self.channels:
            raise UsageError(f"{what}: channels must name at least one channel, such as channels=['in_app']")
        check_choice(f"{what}: category", self.category, get_args(Category))
        check_choice(f"{what}: priority", self.priority, PRIORITIES)
        check_choice(f"{what}: over_cap", self.over_cap, ("skip", "hold", "in_app"))
        check_choice(f"{what}: quiet_hours", self.quiet_hours, ("obey", "ignore"))
        if self.ttl is not None:
            check_seconds(f"{what}: ttl", self.ttl)
        if self.opt_in is not None:
            check_name(f"{what}: opt_in", self.opt_in)
        if self.schema is not None and not callable(self.schema):
            raise UsageError(f"{what}: schema must be callable with the data, not {self.schema!r:.80}")
        self._check_parts(what)
        self._check_contradictions(what)

    def _check_parts(self, what: str) -> None:
        keep(self, caps=check_all(f"{what}: caps", self.caps, FrequencyCap))
        if not isinstance(self.mandatory, bool):
            keep(self, mandatory=check_names(f"{what}: mandatory", self.mandatory))
            check_known(f"{what}: mandatory", self.mandatory, self.channels)
        if self.digest is not None:
            if not isinstance(self.digest, Digest):
                raise UsageError(f"{what}: digest must be a Digest, not {self.digest!r:.80}")
            check_known(f"{what}: Digest.channels", self.digest.channels or (), self.channels)
        if not isinstance(self.fallback, Mapping):
            raise UsageError(f"{what}: fallback must map channels to Fallback(...), not {self.fallback!r:.80}")
        keep(self, fallback=MappingProxyType(dict(self.fallback)))
        check_all(f"{what}: fallback", self.fallback.values(), Fallback)
        check_known(f"{what}: fallback", self.fallback, self.channels)
        for channel, each in self.fallback.items():
            if each.of == channel or self.fallback.get(each.of):
                raise UsageError(f"{what}: {channel} cannot be a fallback of {each.of}, which is one itself")
            if self.ttl is not None and each.after >= self.ttl:
                raise UsageError(
                    f"{what}: {channel} waits {each.after} s, and ttl={self.ttl} is over by then; "
                    "raise ttl, or shorten after="
                )
            if each.use != "away":
                check_known(f"{what}: Fallback.of", [each.of], self.channels)

    def _check_contradictions(self, what: str) -> None:
        if self.category == "marketing":
            if not self.caps or self.opt_in is None:
                raise UsageError(
                    f"{what} is marketing: give it caps=, and opt_in= with the name of the consent it needs"
                )
            if self.mandatory or self.priority == "critical" or self.quiet_hours == "ignore":
                raise UsageError(
                    f"{what} is marketing, so it cannot be mandatory, critical or ignore quiet hours; "
                    "change that, or the category"
                )
        if self.mandatory and self.opt_in is not None:
            raise UsageError(f"{what} is mandatory, and needs the consent {self.opt_in!r}; leave out one of them")
        if self.over_cap != "skip" and not self.caps:
            raise UsageError(
                f"{what}: over_cap={self.over_cap!r} has no effect without caps=; leave it out, or add caps"
            )
        if self.over_cap == "in_app":
            check_known(f"{what}: over_cap", [IN_APP], self.channels)
        if self.digest is not None:
            self._check_digest(what, self.digest)

    def _check_digest(self, what: str, digest: Digest) -> None:
        if self.priority == "critical":
            raise UsageError(f"{what} is critical, which is never collected; leave out digest=, or lower the priority")
        collected = self.collected
        if not collected:
            raise UsageError(
                f"{what}: digest= has no channel that collects; add channels, or name Digest(channels=...)"
            )
        if both := collected & (set(self.fallback) | {each.of for each in self.fallback.values()}):
            raise UsageError(
                f"{what}: {', '.join(sorted(both))} takes part in a fallback, and is collected; "
                "leave it out of fallback=, or of Digest(channels=...)"
            )
        if self.ttl is not None and self.ttl < digest.longest:
            raise UsageError(
                f"{what}: ttl={self.ttl} is over before its digest ends, which takes up to {digest.longest} s; "
                "raise ttl or leave it out"
            )

    @property
    def collected(self) -> frozenset[str]:
        """The channels on which a digest collects it."""
        if self.digest is None:
            return frozenset()
        if self.digest.channels is None:
            return frozenset(self.channels) - {IN_APP}
        return frozenset(self.digest.channels)

    def is_mandatory(self, channel: str) -> bool:
        """Whether preferences cannot switch it off on this channel."""
        return self.mandatory if isinstance(self.mandatory, bool) else channel in self.mandatory

    def expires_at(self, submitted_at: datetime) -> datetime | None:
        """When a notification that was submitted then has become worthless; None: never."""
        return None if self.ttl is None else submitted_at + timedelta(seconds=self.ttl)


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets a notification.

    Attributes:
        id: the user; for a recipient without an account, any name that the application gives it.
        tz: the IANA name of the user's time zone; empty: unknown.
        locale: such as `"de-AT"`; empty: unknown.
        endpoints: where to reach a recipient without registered ones.
    """

    id: str
    tz: str = ""
    locale: str = ""
    endpoints: Sequence[Endpoint] = ()

    def __post_init__(self) -> None:
        check_text("Recipient.id", self.id)
        check_zone(self.tz, f"Recipient.tz of {self.id!r:.80}")
        check_text("Recipient.locale", self.locale, empty=True)
        keep(self, endpoints=check_all("Recipient.endpoints", self.endpoints, Endpoint))
