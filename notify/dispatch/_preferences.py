"""Pure: what users switch on and off.

Preferences are a JSON object, so an application can store them anywhere:

```text
{"all": true,
 "channels": {"sms": false},
 "categories": {"marketing": {"*": true, "email": false}},
 "types": {"comment.created": {"*": true, "email": false}},
 "opt_in": {"promotions": true},
 "quiet_hours": [{"start": "22:00", "end": "07:00"}],
 "tz": "Europe/Berlin",
 "extra": {...}}
```

Every entry is optional; one that is missing decides nothing. `PRECEDENCE` says which entry decides. The value of a
category or a type is always an object, with `*` for all its channels: so a merge patch that sets one entry leaves the
others alone, where `true` in place of an object would remove them silently.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, get_args

from notify.errors import UsageError

from ._checks import check_name, keep
from ._quiet_hours import QuietHours
from ._types import Category, NotificationType
from ._zones import check_zone

ALL: Final = "*"
"""The name for all channels, in the entry of a category or a type."""

ENTRIES: Final = (
    "types/{type}/{channel}",
    "categories/{category}/{channel}",
    "channels/{channel}",
    "types/{type}/*",
    "categories/{category}/*",
    "all",
)
"""Where preferences may say something about a channel of a type."""

PRECEDENCE: Final[tuple[tuple[str, frozenset[bool]], ...]] = (
    ("types/{type}/{channel}", frozenset({True, False})),
    ("categories/{category}/{channel}", frozenset({True, False})),
    ("channels/{channel}", frozenset({False})),
    ("types/{type}/*", frozenset({True, False})),
    ("categories/{category}/*", frozenset({True, False})),
    ("channels/{channel}", frozenset({True})),
    ("all", frozenset({True, False})),
)
"""The first of these entries that is there, with one of these values, decides.

The most specific one wins, but for one exception: a channel that is off stays off for types and categories that are on,
unless their entry names the channel.
"""

_DEEPEST: Final = 32
_NOTHING: Final[Mapping[str, bool]] = MappingProxyType({})
_STEPS: Final = tuple((ENTRIES.index(entry), deciding) for entry, deciding in PRECEDENCE)


def first_deciding(values: Sequence[bool | None]) -> int | None:
    """Return which of the `ENTRIES`, given what they say, decides by `PRECEDENCE`; None: none says anything."""
    for entry, deciding in _STEPS:
        if values[entry] in deciding:
            return entry
    return None


def _object(what: str, value: Any, *, names: bool = True) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"preferences: {what} must be an object, not {value!r:.80}")
    for name in value if names else ():
        check_name(f"preferences: a name in {what}", name)
    return value


def _switches(what: str, value: Any, *, is_group: bool = False) -> Mapping[str, bool]:
    if is_group and isinstance(value, bool):
        raise UsageError(
            f'preferences: {what} must be an object; write {{"*": {str(value).lower()}}} for all its channels'
        )
    if not isinstance(value, Mapping):
        raise UsageError(f"preferences: {what} must be an object of true and false, not {value!r:.80}")
    for name, switch in value.items():
        if not (is_group and name == ALL):
            check_name(f"preferences: a name in {what}", name)
        if not isinstance(switch, bool):
            raise UsageError(f"preferences: {what}/{name} must be true or false, not {switch!r:.80}")
    return MappingProxyType(dict(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The choices of one user, or the defaults for many.

    Attributes:
        all: everything on or off; None: not decided here.
        channels: on or off, by channel.
        categories: on or off, by category, then by channel or `*`.
        types: on or off, by type, then by channel or `*`.
        opt_in: consents, by name.
        quiet_hours: when not to be disturbed; None: not decided here; without rules: never quiet.
        tz: the IANA name of the user's time zone; empty: not decided here.
        extra: values of the application; the library does not read them.

    Raises:
        UsageError: a value is not valid. The message names the entry.
    """

    all: bool | None = None
    channels: Mapping[str, bool] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    types: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    opt_in: Mapping[str, bool] = field(default_factory=dict)
    quiet_hours: QuietHours | None = None
    tz: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.all is not None and not isinstance(self.all, bool):
            raise UsageError(f"preferences: all must be true or false, not {self.all!r:.80}")
        for name in ("channels", "opt_in"):
            keep(self, **{name: _switches(name, getattr(self, name))})
        for name in ("categories", "types"):
            groups = _object(name, getattr(self, name))
            checked = {key: _switches(f"{name}/{key}", value, is_group=True) for key, value in groups.items()}
            keep(self, **{name: MappingProxyType(checked)})
        if self.quiet_hours is not None and not isinstance(self.quiet_hours, QuietHours):
            raise UsageError(f"preferences: quiet_hours must be QuietHours(...), not {self.quiet_hours!r:.80}")
        check_zone(self.tz, "preferences: tz")
        keep(self, extra=MappingProxyType(dict(_object("extra", self.extra, names=False))))

    def entries(self, type: NotificationType, channel: str) -> tuple[bool | None, ...]:
        """Return what each of the `ENTRIES` says about a channel of a type; None: nothing."""
        by_type, by_category = self.types.get(type.key, _NOTHING), self.categories.get(type.category, _NOTHING)
        return (
            by_type.get(channel),
            by_category.get(channel),
            self.channels.get(channel),
            by_type.get(ALL),
            by_category.get(ALL),
            self.all,
        )

    def to_json(self) -> bytes:
        """Return them as a `PreferenceStore` keeps them: a JSON object of the entries that decide something."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["quiet_hours"] = None if self.quiet_hours is None else self.quiet_hours.to_json()
        kept = {name: value for name, value in values.items() if value is not None and value != "" and value != {}}
        return json.dumps(kept, default=dict, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes | str | Mapping[str, Any]) -> Preferences:
        """Make preferences from JSON text, or from an object that was parsed already.

        Raises:
            UsageError: it is not JSON, or has an entry that is unknown or not valid.
        """
        return _parsed(data) if isinstance(data, bytes) else _read(_object("preferences", _loads(data), names=False))


def check_patch(
    patch: bytes | str | Mapping[str, Any],
    *,
    types: Iterable[NotificationType] | None = None,
    channels: Collection[str] | None = None,
) -> bytes:
    """Check a JSON merge patch (RFC 7386) for preferences before it is stored, and return it encoded.

    `Preferences.from_json` accepts the result of a checked patch, whatever preferences it is applied to: each entry is
    checked by itself, and lists are replaced as a whole. An entry that is removed (`null`) may have any name.

    Args:
        patch: the changes.
        types: the registered types; an entry for another one is refused. None: any name is accepted. A consent may have
            any name, since it can be given before a type needs it.
        channels: the names of the installed channels; an entry for another one is refused. None: any is accepted.

    Raises:
        UsageError: it is not JSON, or would set an entry that is not valid or has no effect.
    """
    given = _object("the patch", _loads(patch), names=False)
    _check_nesting(given)
    set_ = _read(_without_null(given))
    if types is not None:
        known = list(types)
        _check_among("a type", set_.types, {each.key for each in known})
        _check_among("a category", set_.categories, get_args(Category))
    if channels is not None:
        groups = (*set_.types.values(), *set_.categories.values())
        _check_among("a channel", {*set_.channels, *(name for each in groups for name in each)}, {*channels, ALL})
    try:
        return json.dumps(given, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"preferences: extra must be JSON: {error}") from error


def _check_nesting(value: Any) -> None:
    """Raise UsageError for values that are nested so deeply that reading them again may fail."""
    level = [value]
    for _ in range(_DEEPEST):
        groups = [each for each in level if isinstance(each, Mapping | list | tuple)]
        level = [inner for each in groups for inner in (each.values() if isinstance(each, Mapping) else each)]
        if not level:
            return
    raise UsageError(f"preferences: extra must be nested less than {_DEEPEST} levels deep")


def _check_among(what: str, names: Iterable[str], known: Collection[str]) -> None:
    if wrong := sorted({*names} - {*known}):
        listed = ", ".join(sorted(known)) or "none"
        raise UsageError(f"preferences: {', '.join(wrong)} is not the name of {what}; there are {listed}")


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return value


@lru_cache(maxsize=1024)
def _parsed(data: bytes) -> Preferences:
    return _read(_object("preferences", _loads(data), names=False))


def _loads(data: Any) -> Any:
    if not isinstance(data, bytes | str):
        return data
    try:
        return json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"preferences must be JSON, not {data!r:.80}") from error


_KNOWN: Final = frozenset(each.name for each in fields(Preferences))


def _read(values: Mapping[str, Any]) -> Preferences:
    if unknown := values.keys() - _KNOWN:
        raise UsageError(
            f"preferences have no {', '.join(sorted(unknown))}; they have {', '.join(sorted(_KNOWN))}, "
            "and the application's own values belong in extra"
        )
    given = dict(values)
    if "quiet_hours" in given:
        given["quiet_hours"] = QuietHours.from_json(given["quiet_hours"])
    return Preferences(**given)
