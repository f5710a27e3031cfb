"""Says which packages a tool for tests needs, where they are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SUITES_NEED: Final = "pytest 'notify-streams[trio]'"


@contextmanager
def naming(who: str, packages: str) -> Iterator[None]:
    """Import in this block what `who` needs.

    Args:
        who: the name of the class that was asked for.
        packages: what provides it, as pip takes it.

    Raises:
        ModuleNotFoundError: something is not installed; the message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{who} needs {error.name}: pip install {packages}", name=error.name) from error
