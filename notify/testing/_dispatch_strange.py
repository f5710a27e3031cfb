"""Arguments that every store refuses in the same way, and how that is asserted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import pytest

from notify import UsageError

STRANGE_TEXTS: Final[tuple[Any, ...]] = ("a\0", "\ud800", "\u00fc\udfff", b"a", 7)
"""Text that some databases cannot store, and values that are not text."""

STRANGE_NAMES: Final[tuple[Any, ...]] = (*STRANGE_TEXTS, "n" * 3000, "\u20ac" * 400)
"""The same, and names that are too long for an index."""

STRANGE_TIMES: Final[tuple[Any, ...]] = (
    datetime(2027, 1, 5),
    1_800_000_000,
    "2027-01-05T00:00:00Z",
    None,
)
"""A naive datetime, and values that are not datetimes."""

STRANGE_NUMBERS: Final[tuple[Any, ...]] = (-1, 2**31, 1.5, True, "1", None)
"""Values that cannot be a number of rows."""


async def refused(call: Callable[[], Awaitable[object]], what: str) -> None:
    """Assert that a call raises UsageError, and that the error names what is wrong."""
    with pytest.raises(UsageError, match=rf"\b{what}\b"):
        await call()
