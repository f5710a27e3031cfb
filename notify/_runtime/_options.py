"""Pure: checks of a constructor's options."""

from __future__ import annotations

from ..errors import UsageError


def check_parts(**parts: tuple[object, str]) -> None:
    """Raise UsageError unless every part that is given is an object with its method.

    Args:
        parts: by the option's name, the part and the method that it must have.
    """
    for name, (part, method) in parts.items():
        if part is not None and (isinstance(part, type) or not callable(getattr(part, method, None))):
            raise UsageError(f"{name}= must be an object with a method {method}(), not {part!r:.80}")


def check_positive(**values: object) -> None:
    """Raise UsageError unless every value is a number greater than 0."""
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise UsageError(f"{name} must be a number greater than 0, not {value!r:.80}")
        if not value > 0:
            raise UsageError(f"{name} must be greater than 0, not {value!r}")


def check_whole(**values: object) -> None:
    """Raise UsageError unless every value is a whole number greater than 0."""
    check_positive(**values)
    for name, value in values.items():
        if not isinstance(value, int):
            raise UsageError(f"{name} must be a whole number greater than 0, not {value!r}")


def check_numbers(**values: object) -> None:
    """Raise UsageError unless every value that is given is a whole number of at least 0."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UsageError(f"{name} must be a whole number of at least 0, not {value!r:.80}")
