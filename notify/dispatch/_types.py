"""Pure: types of notifications and their recipients, checked when they are made.

A type says everything about a kind of notification that is the same for all recipients. It is a value: a program makes
it, or a TOML file (see `TypeRegistry.from_toml`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from notify.errors import UsageError

from ._channel import Priority
from ._checks import check_all, check_choice, check_known, check_name, check_names, check_seconds, check_text, keep
from ._type_parts import IN_APP as IN_APP
from ._type_parts import Digest, Fallback, FrequencyCap
from ._zones import check_zone
from .abc import Endpoint

Category: TypeAlias = Literal["transactional", "system", "marketing"]

PRIORITIES: Final[tuple[Priority, ...]] = ("low", "normal", "high", "critical")
"""From weak to strong."""


@dataclass(frozen=True, slots=True)
class NotificationType:
    """A kind of notification.

    Attributes:
        key: its name in code, preferences and stored rows, such as `"comment.created"`.
        channels: the names of the channels that it may use, in the order in which `Plan` lists them.
        category: groups types in preferences. `"marketing"` needs `opt_in` and `caps`.
        priority: deliveries that are due are sent in this order. `"critical"` is exempt from caps, and from quiet hours
            unless a rule says otherwise.
        ttl: seconds from the submission after which it is worthless, and no longer sent; None: no limit.
        caps: how many a recipient gets in a period.
        over_cap: what happens to the others: `"skip"`, `"hold"` until the period is over, or `"in_app"` (inbox only).
        opt_in: the name of the consent that it needs; None: it needs none.
        mandatory: True: preferences cannot switch it off; channels: they cannot switch these off. Quiet hours still
            apply.
        digest: how it is collected; None: each notification is sent by itself.
        fallback: by channel, the condition for using it; a channel without an entry is always used.
        quiet_hours: `"ignore"` sends at any hour.
        schema: called with the data at submit; an exception refuses the submission.

    Raises:
        UsageError: an argument is not valid, or the type contradicts itself, such as marketing without a consent.
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
        """Return whether it is sent over this channel whatever the preferences say."""
        return self.mandatory if isinstance(self.mandatory, bool) else channel in self.mandatory

    def expires_at(self, submitted_at: datetime) -> datetime | None:
        """Return when a notification that was submitted at this time expires; None: never."""
        return None if self.ttl is None else submitted_at + timedelta(seconds=self.ttl)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient, as `recipients=` of the dispatcher describes it, or as it is given to `submit`.

    Attributes:
        id: the user id; for a recipient without an account, any name that the application gives it.
        tz: the IANA name of the user's time zone; empty: unknown.
        locale: such as `"de-AT"`; empty: unknown.
        endpoints: addresses that are not registered in the store. They are never retired, since nothing keeps them.

    Raises:
        UsageError: an argument is not valid, such as a time zone that does not exist.
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
        if not all(each.channel and each.address for each in self.endpoints):
            raise UsageError(f"Recipient.endpoints of {self.id!r:.80}: each needs channel= and address=")
