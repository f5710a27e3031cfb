"""Pure: addresses from which wrong secrets came have to wait, longer with each further one.

The first `FREE` failures cost nothing, since a wrong setting is found by trial. After that an address waits 1 s,
then 2 s, then 4 s, up to `LONGEST`; while it waits, it is not told whether its secret was right. If a right one passed,
429 would mean wrong, and an address could guess as fast as it can send. Successes are not counted.

An IPv6 client usually owns a whole /64, so such an address counts by that prefix; an IPv4 address written as IPv6
counts as what it is. Memory is bounded: the address that failed least recently is dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Final, NamedTuple

FREE: Final = 5
"""Failures after which an address begins to wait."""

LONGEST: Final = 60.0
"""Seconds to wait at most."""

FORGOTTEN: Final = 600.0
"""Seconds after the end of its wait when an address that behaves is forgotten."""


class _Failures(NamedTuple):
    """Of one address: how many, and until when it has to wait."""

    number: int
    until: float


class Throttle:
    """Counts failures by address.

    Args:
        max_addresses: addresses that are remembered.
    """

    def __init__(self, max_addresses: int = 10_000) -> None:
        self._max_addresses = max_addresses
        self._failures: OrderedDict[str, _Failures] = OrderedDict()  # the address that failed last is the last one

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str, now: float) -> float:
        """Return the seconds for which this address still has to wait; 0 if it may try."""
        failures = self._failures.get(network_of(address))
        return 0.0 if failures is None else max(0.0, failures.until - now)

    def failed(self, address: str, now: float) -> None:
        """Note a failure."""
        network = network_of(address)
        last = self._failures.pop(network, _Failures(0, now))
        count = 1 if last.until + FORGOTTEN < now else last.number + 1
        wait = min(LONGEST, 2.0 ** min(count - FREE, 16)) if count >= FREE else 0.0
        self._failures[network] = _Failures(count, now + wait)
        if len(self._failures) > self._max_addresses:
            self._failures.popitem(last=False)


def network_of(address: str) -> str:
    """Return what an address counts as: itself, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]  # a socket of the file system, or a name that a test client made up
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), 64), strict=False))
