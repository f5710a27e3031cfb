"""Pure: the types of an application, by their keys, from Python or TOML.

```toml
unknown = "in_app"                       # what to do with other keys; "error" by default
defaults.channels = { sms = false }      # preferences of users who have not decided

[types."comment.created"]
channels = ["in_app", "web_push", "email"]
ttl = "3d"
fallback.email = { use = "unread", after = "15m" }

[types.offers]
category = "marketing"
channels = ["in_app", "email"]
opt_in = "promotions"
caps = [{ limit = 2, per = "day" }, { limit = 5, per = "week" }]
digest = { every = "week", days = ["mon"], at = "08:00" }
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final, Literal, get_args

from notify.errors import UsageError

from ._checks import check_choice, check_seconds
from ._layers import NO_PREFERENCES
from ._preferences import Preferences, check_patch
from ._quiet import clock_of
from ._type_parts import Digest, Fallback, FrequencyCap, Per
from ._types import IN_APP, NotificationType

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_DURATIONS: Final = {
    Digest: ("window", "ceiling", "look_back"),
    Fallback: ("after",),
    FrequencyCap: ("per",),
    NotificationType: ("ttl",),
}


class TypeRegistry:
    """The types of an application. Iterating yields them in the order in which they were added.

    Args:
        types: the types; more can be added later.
        unknown: what to do with a key that is not registered: `"error"`, or `"in_app"`: send it to the inbox only.
        defaults: the preferences that apply where nothing else decides.

    Raises:
        UsageError: two types have the same key.
    """

    def __init__(
        self,
        types: Iterable[NotificationType] = (),
        *,
        unknown: Literal["error", "in_app"] = "error",
        defaults: Preferences = NO_PREFERENCES,
    ) -> None:
        check_choice("TypeRegistry.unknown", unknown, ("error", "in_app"))
        if not isinstance(defaults, Preferences):
            raise UsageError(f"TypeRegistry.defaults must be Preferences(...), not {defaults!r:.80}")
        self.unknown = unknown
        self.defaults = defaults
        self._types: dict[str, NotificationType] = {}
        self.add(*types)

    def add(self, *types: NotificationType) -> None:
        """Add types: all of them, or none if one is refused.

        Raises:
            UsageError: a key is registered already, or what was given is not a type.
        """
        added: dict[str, NotificationType] = {}
        for each in types:
            if not isinstance(each, NotificationType):
                raise UsageError(f"a registry takes NotificationType(...), not {each!r:.80}")
            if each.key in self._types or each.key in added:
                raise UsageError(f"the type {each.key!r} is registered already; choose another key")
            added[each.key] = each
        self._types.update(added)

    def __getitem__(self, key: str) -> NotificationType:
        """Return the type with this key; KeyError: there is none."""
        return self._types[key]

    def __contains__(self, key: object) -> bool:
        """Whether there is a type with this key."""
        return key in self._types

    def __iter__(self) -> Iterator[NotificationType]:
        """Iterate over the types."""
        return iter(list(self._types.values()))

    def __len__(self) -> int:
        """Return how many types there are."""
        return len(self._types)

    def resolve(self, key: str) -> NotificationType:
        """Return the type with this key, or one that reaches the inbox only, if `unknown` is `"in_app"`.

        Raises:
            UsageError: there is none with this key, and `unknown` is `"error"`.
        """
        found = self._types.get(key)
        if found is not None:
            return found
        if self.unknown == "error":
            known = ", ".join(sorted(self._types)[:8]) + (", ..." if len(self._types) > 8 else "")
            raise UsageError(
                f"the type {key!r:.140} is not registered; add it to the registry, which has {known or 'none'}"
            )
        return NotificationType(key, channels=(IN_APP,))

    def check_channels(self, installed: Collection[str]) -> None:
        """Raise UsageError if a type or default names a channel that is not installed, or a default an unknown type."""
        check_patch(self.defaults.to_json(), types=self, channels=installed)
        for each in self:
            if missing := [name for name in each.channels if name not in installed]:
                raise UsageError(
                    f"the type {each.key!r} uses {', '.join(missing)}, and the dispatcher has only "
                    f"{', '.join(sorted(installed)) or 'none'}; install the channel, or change the type"
                )

    @classmethod
    def from_toml(cls, text: str) -> TypeRegistry:
        """Make a registry from the text of a TOML file. Durations are seconds, or text such as `"15m"` or `"3d"`.

        Raises:
            UsageError: it is not TOML, or one of its types is not valid. The message names it.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the types are not TOML: {error}") from error
        if further := document.keys() - {"types", "unknown", "defaults"}:
            raise UsageError(
                f"a TOML file of types has [types.<key>], [defaults] and unknown, not {', '.join(sorted(further))}"
            )
        types = document.get("types", {})
        if not isinstance(types, dict):
            raise UsageError(f"types must be a table for each type, such as [types.welcome], not {types!r:.80}")
        defaults = Preferences.from_json(document["defaults"]) if "defaults" in document else NO_PREFERENCES
        registry = cls(
            [_type(key, value) for key, value in types.items()],
            unknown=document.get("unknown", "error"),
            defaults=defaults,
        )
        check_patch(defaults.to_json(), types=registry)
        return registry


def duration(value: object, what: str = "a duration") -> float:
    """Return seconds from a number of them, or from text such as `"90s"`, `"15m"`, `"9h"`, `"3d"` and `"1h30m"`.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return sum(float(number) * _UNITS[unit] for number, unit in parts)
        raise UsageError(f"{what} must be seconds or text such as '90s', '15m', '9h' or '3d', not {value!r:.80}")
    check_seconds(what, value, zero=True)
    assert isinstance(value, int | float)
    return float(value)


def _type(key: str, value: object) -> NotificationType:
    what = f"the type {key!r}"
    values = _values(NotificationType, value, what, without={"key", "schema"})
    if "caps" in values:
        caps = values["caps"]
        if not isinstance(caps, list):
            raise UsageError(f"{what}: caps must be a list such as [{{ limit = 2, per = 'day' }}], not {caps!r:.80}")
        values["caps"] = [_part(FrequencyCap, cap, f"{what}: caps") for cap in caps]
    if "digest" in values:
        values["digest"] = _part(Digest, values["digest"], f"{what}: digest")
    if "fallback" in values:
        if not isinstance(values["fallback"], dict):
            raise UsageError(f"{what}: fallback must be a table for each channel, not {values['fallback']!r:.80}")
        values["fallback"] = {
            channel: _part(Fallback, each, f"{what}: fallback.{channel}")
            for channel, each in values["fallback"].items()
        }
    return NotificationType(key, **values)


def _part(kind: type[Any], value: object, what: str) -> Any:
    values = _values(kind, value, what)
    if isinstance(values.get("at"), str):
        values["at"] = clock_of(f"{what}: at", values["at"])
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error.__cause__


def _values(kind: type[Any], value: object, what: str, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a table, durations as seconds; raise UsageError if it has other ones, or lacks some."""
    known = {each.name: each for each in fields(kind) if each.name not in without}
    if not isinstance(value, Mapping) or not value.keys() <= known.keys():
        wrong = ", ".join(sorted(value.keys() - known.keys())) if isinstance(value, Mapping) else f"{value!r:.80}"
        raise UsageError(f"{what} must have only {', '.join(sorted(known))}, not {wrong}")
    for name, each in known.items():
        if name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise UsageError(f"{what} needs {name}; it has {', '.join(value) or 'nothing'}")
    return {
        name: duration(each, f"{what}: {name}") if name in _DURATIONS[kind] and not _is_period(name, each) else each
        for name, each in value.items()
    }


def _is_period(name: str, value: object) -> bool:
    return name == "per" and value in get_args(Per)
