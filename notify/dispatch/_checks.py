"""Pure: checks of values when they are made. Each error names the value, what was given, and what to do."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import time
from typing import Any, Final

from notify.errors import UsageError

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def keep(value: object, **fields: object) -> None:
    """Set fields of a frozen value that is being made."""
    for name, each in fields.items():
        object.__setattr__(value, name, each)


def check_name(what: str, name: object) -> str:
    """Return a name of a type, channel or consent; raise UsageError if it is not one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{what} must be a name of 1 to 128 letters, digits and . : _ -, not {name!r:.80}")
    return name


def check_names(what: str, names: object) -> tuple[str, ...]:
    """Return names as a tuple; raise UsageError if one is not a name, or is repeated."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise UsageError(f"{what} must be a list of names, not {names!r:.80}")
    checked = tuple(check_name(what, name) for name in names)
    if len({*checked}) < len(checked):
        raise UsageError(f"{what} names something twice: {', '.join(checked)}")
    return checked


def check_known(what: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise UsageError if one of the names is not known."""
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"{what}: {', '.join(missing)} must be among the channels {', '.join(known)}")


def check_all(what: str, values: object, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Return values as a tuple; raise UsageError if one is not of this kind."""
    named = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    if isinstance(values, str) or not isinstance(values, Collection):
        raise UsageError(f"{what} must be a list of {named}, not {values!r:.80}")
    for value in values:
        if not isinstance(value, kind):
            raise UsageError(f"{what} must consist of {named}, not {value!r:.80}")
    return tuple(values)


def check_choice(what: str, value: object, choices: Collection[str], further: str = "") -> None:
    """Raise UsageError if a value is not one of the choices."""
    if not isinstance(value, str) or value not in choices:
        named = ", ".join(repr(each) for each in choices) + (f" {further}" if further else "")
        raise UsageError(f"{what} must be one of {named}, not {value!r:.80}")


def check_count(what: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Raise UsageError if a value is not a whole number of at least `least`, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{what} must be a whole number {bounds}, not {value!r:.80}")


def check_text(what: str, value: object, *, empty: bool = False) -> None:
    """Raise UsageError if a value is not text, or is empty without being allowed to."""
    if not isinstance(value, str) or not (value or empty):
        raise UsageError(f"{what} must be text{'' if empty else ' that is not empty'}, not {value!r:.80}")


def check_wall(what: str, value: object) -> None:
    """Raise UsageError if a value is not a time of the clock on the wall."""
    if not isinstance(value, time) or value.tzinfo is not None:
        raise UsageError(f"{what} must be a time without a zone, such as time(22, 30), not {value!r:.80}")


def check_seconds(what: str, value: object, *, zero: bool = False) -> None:
    """Raise UsageError if a value is not a finite number of seconds greater than 0, or 0 if `zero`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > 0 or (zero and value == 0)) or value == float("inf"):  # type: ignore[operator]
        least = "of at least 0" if zero else "greater than 0"
        raise UsageError(f"{what} must be a number of seconds {least}, not {value!r:.80}")


def check_days(what: str, days: object) -> tuple[str, ...]:
    """Return days of the week in their order; raise UsageError if one is not a day, or there is none."""
    names = check_names(what, days)
    if not names or (wrong := [name for name in names if name not in WEEKDAYS]):
        shown = ", ".join(wrong) if names else "none"
        raise UsageError(f"{what} must be some of {', '.join(WEEKDAYS)}, not {shown}")
    return tuple(sorted(names, key=WEEKDAYS.index))
