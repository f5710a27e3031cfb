"""Pure: whose preferences count: an operator's, the user's, the application's defaults.

A layer inherits the entries that it lacks from the next weaker one, and `PRECEDENCE` decides among all of them. So a
user who switches e-mail on does not get a newsletter that is off by default: the default is more specific. But what a
stronger layer switches off, no weaker one switches on, however specific it is: a user who switches everything off gets
nothing, whatever is on by default. What an operator sets for a user (`override`) is final.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from ._preferences import ENTRIES, Preferences, first_deciding
from ._quiet_hours import QuietHours
from ._types import NotificationType


class Effective(NamedTuple):
    """Whether a channel is used for a type, and which layer decided.

    Attributes:
        on: whether it is used.
        layer: whose preferences decided: a name of `Layers`, or `"mandatory"`, or `"type"` where none says anything.
        rule: which entry of them, such as `"types/comment.created/email"`; empty where none decided.
    """

    on: bool
    layer: str
    rule: str = ""


NO_PREFERENCES: Final = Preferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The preferences that count for one user, from the strongest to the weakest.

    Attributes:
        override: what an operator has set for this user.
        member: the user's choices as a member of the tenant at hand.
        user: the user's choices.
        tenant: the defaults of the tenant.
        default: the defaults of the application.
    """

    override: Preferences = NO_PREFERENCES
    member: Preferences = NO_PREFERENCES
    user: Preferences = NO_PREFERENCES
    tenant: Preferences = NO_PREFERENCES
    default: Preferences = NO_PREFERENCES

    def __iter__(self) -> Iterator[tuple[str, Preferences]]:
        """Yield the name of each layer that is given and its preferences, strong ones first."""
        for name in _NAMES:
            preferences: Preferences = getattr(self, name)
            if preferences is not NO_PREFERENCES:
                yield name, preferences

    def effective(self, type: NotificationType, channel: str) -> Effective:
        """Return whether a channel is used for a type, and why, apart from a consent that the type needs."""
        if type.is_mandatory(channel):
            return Effective(True, "mandatory")
        values: list[bool | None] = [None] * len(ENTRIES)
        owners = [""] * len(ENTRIES)
        deciding = None
        for layer, preferences in self:
            for number, value in enumerate(preferences.entries(type, channel)):
                if value is not None and values[number] is None:
                    values[number], owners[number] = value, layer
            deciding = first_deciding(values)
            if deciding is not None and (not values[deciding] or layer == "override"):
                break
        if deciding is None:
            return Effective(True, "type")
        rule = ENTRIES[deciding].format(type=type.key, category=type.category, channel=channel)
        return Effective(bool(values[deciding]), owners[deciding], rule)

    def consent(self, type: NotificationType) -> Effective:
        """Return whether the consent that a type needs is given; True for a type that needs none."""
        if type.opt_in is None:
            return Effective(True, "type")
        for layer, preferences in self:
            if (given := preferences.opt_in.get(type.opt_in)) is not None:
                return Effective(given, layer, f"opt_in/{type.opt_in}")
        return Effective(False, "type")

    def quiet_hours(self) -> tuple[str, QuietHours | None]:
        """Return the name of the strongest layer that has quiet hours, and these; empty and None: no layer has any."""
        for layer, preferences in self:
            if preferences.quiet_hours is not None:
                return layer, preferences.quiet_hours
        return "", None

    def zone(self, recipient: str, default: str) -> str:
        """Return the name of the user's zone.

        Args:
            recipient: the zone of the user's account; the user's own preferences are stronger, defaults weaker.
            default: where nothing says it.
        """
        own = self.override.tz or self.member.tz or self.user.tz
        return own or recipient or self.tenant.tz or self.default.tz or default


_NAMES: Final = tuple(each.name for each in fields(Layers))
