"""Says which packages a tool for tests needs, if they are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SUITES_NEED: Final = "pytest 'notify-streams[trio]'"


@contextmanager
def requiring(who: str, packages: str) -> Iterator[None]:
    """Turn a failed import in this block into an error that says what to install.

    Args:
        who: the name of the class that was asked for.
        packages: what to install, as arguments of pip.

    Raises:
        ModuleNotFoundError: something is not installed; the message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{who} needs {error.name}: pip install {packages}", name=error.name) from error
