"""The version of the distribution, which is called `notify-streams`; it comes from the tag that was built."""

from __future__ import annotations

from importlib import metadata
from typing import Final

UNKNOWN: Final = "0+unknown"


def installed_version() -> str:
    """Return the version of the installed distribution, `UNKNOWN` where it is only imported from its sources."""
    try:
        return metadata.version("notify-streams")
    except metadata.PackageNotFoundError:
        return UNKNOWN


__version__: Final = installed_version()
"""The version of the installed distribution, `notify-streams`."""
