"""Pure: whose preferences count: an operator's, the user's, the application's defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from ._preferences import Preferences
from ._quiet import QuietHours
from ._types import NotificationType


class Effective(NamedTuple):
    """Whether a channel is used for a type, and who says so.

    Attributes:
        on: whether it is used.
        layer: whose preferences decided; `"mandatory"` or `"type"` where none did.
        rule: which entry of them, such as `"types/comment.created/email"`; empty where none did.
    """

    on: bool
    layer: str
    rule: str = ""


NO_PREFERENCES: Final = Preferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The preferences that count for one user, from strong to weak. The first one that says anything decides.

    Attributes:
        override: what an operator decided against the user's own choice.
        member: the user's choice as a member of the tenant at hand.
        user: the user's choice.
        tenant: the defaults of the tenant.
        default: the defaults of the application.
    """

    override: Preferences = NO_PREFERENCES
    member: Preferences = NO_PREFERENCES
    user: Preferences = NO_PREFERENCES
    tenant: Preferences = NO_PREFERENCES
    default: Preferences = NO_PREFERENCES

    def __iter__(self) -> Iterator[tuple[str, Preferences]]:
        """Yield the name of each layer and its preferences, strong ones first."""
        for each in fields(self):
            yield each.name, getattr(self, each.name)

    def effective(self, type: NotificationType, channel: str) -> Effective:
        """Return whether a channel is used for a type, and why. A consent that the type needs is not looked at."""
        if type.is_mandatory(channel):
            return Effective(True, "mandatory")
        for layer, preferences in self:
            if (choice := preferences.choice(type, channel)) is not None:
                return Effective(choice.on, layer, choice.rule)
        return Effective(True, "type")

    def consent(self, type: NotificationType) -> Effective:
        """Return whether the consent that a type needs is given; it is where the type needs none."""
        if type.opt_in is None:
            return Effective(True, "type")
        for layer, preferences in self:
            if (given := preferences.opt_in.get(type.opt_in)) is not None:
                return Effective(given, layer, f"opt_in/{type.opt_in}")
        return Effective(False, "type")

    def quiet_hours(self) -> tuple[str, QuietHours | None]:
        """Return the quiet hours that count, and whose they are."""
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


def strictest(*preferences: Preferences) -> Preferences:
    """Return preferences that say what any of these says; what one of them switches off is off."""
    merged: dict[str, Any] = {}
    for each in preferences:
        for one in fields(each):
            merged[one.name] = _stricter(merged.get(one.name), getattr(each, one.name))
    return Preferences(**{name: value for name, value in merged.items() if value is not None})


def _stricter(one: Any, other: Any) -> Any:
    if isinstance(one, bool) and isinstance(other, bool):
        return one and other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {key: _stricter(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, QuietHours) and isinstance(other, QuietHours):
        return QuietHours(*dict.fromkeys(one.rules + other.rules))
    return one if other is None or other == "" else other if one is None else one
