"""Which addresses a request may be sent to: a URL that a customer entered must not reach into our own network.

The check is made after the name is resolved, on each address, and the connection goes to the very address that was
checked. So neither an unusual spelling (`0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]`) nor a name that resolves
differently the second time gets around it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import anyio

from notify import UsageError

_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_RESERVED: Final = tuple(map(ip_network, ("192.0.0.0/24", "3fff::/20", "5f00::/16")))
"""Networks of special use that `ipaddress` knows only in later versions of Python."""

_V4_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


class AddressRefusedError(UsageError):
    """The host of the URL has an address that is not a public one."""


def is_public(address: str) -> bool:
    """Return whether the address, and each IPv4 address inside it, is one of the public internet."""
    given = ip_address(address.partition("%")[0])
    return all(
        each.is_global and not each.is_multicast and not any(each in network for network in _RESERVED)
        for each in _meant(given)
    )


def _meant(given: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yield the addresses that packets to this one may end at: itself, and what it embeds for a gateway."""
    if isinstance(given, IPv4Address):
        yield given
        return
    last = IPv4Address(int(given) & 0xFFFF_FFFF)
    if given.ipv4_mapped is not None:
        yield given.ipv4_mapped
        return
    if (
        given.sixtofour is not None
    ):  # whether the whole of 2002::/16 counts as public differs between versions of Python
        yield given.sixtofour
        return
    yield given
    if any(given in network for network in _NAT64) or given in _V4_COMPATIBLE:
        yield last
    if int(given) >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield last


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the addresses of the host, in the order in which to try them.

    Raises:
        AddressRefusedError: one of its addresses is not public.
        OSError: the name cannot be resolved.
    """
    found = await anyio.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if not allow_private:
        refused = [address for address in addresses if not is_public(address)]
        if refused:
            raise AddressRefusedError(
                f"{host} has the address {refused[0]}, which is not public: if it is yours, pass allow_private=True"
            )
    return addresses
