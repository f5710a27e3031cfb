"""Pure: preferences from the settings of two existing systems, so that what users chose there counts here.

Where several settings concern one thing, what one of them switches off is off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from notify.errors import UsageError

from ._preferences import Preferences
from ._quiet import QuietRule, clock_of
from ._quiet_hours import QuietHours
from ._types import NotificationType

_TP_CHANNELS: Final = {"inApp": "in_app", "push": "push", "email": "email", "sms": "sms"}

_GH_CHANNELS: Final[Mapping[str, Sequence[str]]] = {
    "push": ("push", "push_notifications"),
    "email": ("email", "email_notifications"),
    "sms": ("sms", "sms_notifications"),
}
"""How the settings of the apps spell the switch of each channel."""

_PROMOTIONS: Final = "promotions"
_GH_PROMOTIONS: Final = {"push": "promotional_push", "email": "promotional_emails"}


def settings_of_tp(settings: Mapping[str, Any], *, action: Literal["hold", "drop"] = "hold") -> Preferences:
    """Return preferences from the settings of TP.

    ```text
    {"channels": {"mention": {"inApp": true, "push": true, "email": false, "sms": false}},
     "quietHours": {"enabled": true, "start": "22:00", "end": "07:00"}, "timezone": "Europe/Berlin"}
    ```

    A type that the settings do not list reaches the inbox only, as does a channel that its entry lacks. Quiet hours
    concern push and SMS.

    Args:
        settings: as stored; partial ones, too.
        action: what happens in quiet hours. TP drops; this holds, unless it is told to.
    """
    values: dict[str, Any] = {"extra": _without(settings, {"channels", "quietHours", "timezone"})}
    if (channels := settings.get("channels")) is not None:
        values["types"] = {
            type: {name: _switch(f"channels.{type}.{key}", flags.get(key, False)) for key, name in _TP_CHANNELS.items()}
            for type, flags in _table("channels", channels).items()
            if _table(f"channels.{type}", flags) is not None
        }
        values["channels"] = dict.fromkeys(("push", "email", "sms"), False)  # types that are not listed
    zone = settings.get("timezone") or ""
    if (quiet := settings.get("quietHours")) is not None:
        values["quiet_hours"] = _quiet_hours("quietHours", quiet, ("push", "sms"), action, None)
    return Preferences(tz=zone, **values)


def settings_of_gh(settings: Mapping[str, Any], types: Iterable[NotificationType]) -> Preferences:
    """Return preferences from the settings of GH, as one of its two apps stores them.

    ```text
    {"push": true, "email_notifications": true, "sms": false, "promotional_emails": false, "promotional_push": true,
     "onboarding": true, "categories": {"promotions": true, "property_updates": true}, "quiet_hours": {...}}
    ```

    The names of consents are looked up at the top, then in `categories`. Promotions are the types that need the consent
    `promotions`; a user who switches off promotional e-mail gets no marketing by e-mail at all. What is missing is not
    decided here; what is unknown is kept in `extra`.

    Args:
        settings: as stored.
        types: the registered types, for the names of consents and of promotions.
    """
    registered = list(types)
    categories = _table("categories", settings.get("categories") or {})
    channels = {
        channel: all(given)
        for channel, names in _GH_CHANNELS.items()
        if (given := [_switch(name, settings[name]) for name in names if settings.get(name) is not None])
    }
    consents = {
        name: _switch(name, given)
        for name in dict.fromkeys(each.opt_in for each in registered if each.opt_in is not None)
        if (given := settings.get(name, categories.get(name))) is not None
    }
    promotions: dict[str, dict[str, bool]] = {}
    marketing: dict[str, bool] = {}
    for channel, name in _GH_PROMOTIONS.items():
        if settings.get(name) is None:
            continue
        on = _switch(name, settings[name])
        if not on:
            marketing[channel] = False
        for each in registered:
            if each.opt_in == _PROMOTIONS and channel in each.channels:
                promotions.setdefault(each.key, {})[channel] = on and channels.get(channel, True)
    known = {
        *consents,
        "categories",
        "quiet_hours",
        *_GH_PROMOTIONS.values(),
        *(n for s in _GH_CHANNELS.values() for n in s),
    }
    quiet = settings.get("quiet_hours")
    return Preferences(
        channels=channels,
        categories={"marketing": marketing} if marketing else {},
        types=promotions,
        opt_in=consents,
        quiet_hours=None if quiet is None else _quiet_hours("quiet_hours", quiet, None, "hold", "critical"),
        extra=_without(settings, known) | ({"categories": dict(categories)} if categories else {}),
    )


def _quiet_hours(what: str, value: Any, channels: Sequence[str] | None, action: Any, bypass: Any) -> QuietHours:
    quiet = _table(what, value)
    start, end = quiet.get("start"), quiet.get("end")
    if not quiet.get("enabled", True) or start is None or start == end:
        return QuietHours()
    return QuietHours(
        QuietRule(
            start=clock_of(f"{what}.start", start),
            end=clock_of(f"{what}.end", end),
            tz=quiet.get("timezone") or "",
            channels=channels,
            bypass=bypass,
            action=action,
        )
    )


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"settings: {name} must be true or false, not {value!r:.80}")
    return value


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"settings: {name} must be an object, not {value!r:.80}")
    return value


def _without(settings: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    left_out = {*known}
    return {name: value for name, value in settings.items() if name not in left_out}
