"""Pure: store URLs. One parser, with one set of rules for every scheme.

    scheme://user:password@host:port,host:port/path?option=value&option=value

1. User, password, hosts, path and query are separated first, and percent-decoded afterwards, as UTF-8. `+` means `+`.
2. A character that would end one of them may not stand in it: `/ ? # @` and spaces in a user name or password are
   percent-encoded. A URL where one of them might have been meant as part of a password is refused as a whole, before
   any piece of it could be taken for a host, a port, a path or an option. So is a `#` anywhere, and a `%` without two
   hexadecimal digits. All other characters stand for themselves: `: ; , & = [ ] " '` and letters of any script. In the
   name of a file `@` and spaces stand for themselves too.
3. Hosts are separated by commas, around which there may be spaces. An IPv6 address is in brackets.
4. An option is given once, with a value. Empty parts of a query are ignored.
5. The scheme may be in either case; white space around the whole URL is ignored, such as the newline at a file's end.
6. No message shows more of a URL than its scheme and the names of options: in a malformed URL there is no telling which
   part is the password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from ..errors import UsageError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_WITHOUT_HOST: Final = ("sqlite", "unix", "memory")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SPACE: Final = re.compile(r"[\x00-\x20\x7f\x80-\x9f\u2028\u2029]")
_IPV6: Final = r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.\-]+)?)\]"
_NAME: Final = r"((?:[\w.~\-]|%[0-9A-Fa-f]{2})+)"
_HOST: Final = re.compile(rf"(?:{_IPV6}|{_NAME})(?::([0-9]*))?")
_OPTION: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")
_LAST_PORT: Final = 65_535

_ENCODE: Final = (
    "percent-encode the characters of the user name and password that have a meaning in a URL, such as / ? # @ % and "
    "spaces: for example %2F for /"
)


@dataclass(frozen=True)
class StoreUrl:
    """The parts of a store URL, decoded.

    Attributes:
        scheme: in lower case.
        username: None without one.
        password: likewise.
        hosts: each with its port, None where the URL names none. An IPv6 address is without brackets.
        path: what follows the slash after the hosts, decoded.
        options: those of the query.
    """

    scheme: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    hosts: Sequence[tuple[str, int | None]] = ()
    path: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def parse(url: str) -> StoreUrl:
        """Return the parts of a URL.

        Raises:
            UsageError: malformed; no part of the URL but its scheme is in the message.
        """
        scheme, authority, path, query = separate(url)
        userinfo, _, hosts = authority.rpartition("@")
        username, _, password = userinfo.partition(":")
        if _names_file(scheme, authority):
            path = path.replace(" ", "%20")
        return StoreUrl(
            scheme,
            _decoded(scheme, username) or None,
            _decoded(scheme, password) or None,
            _hosts(scheme, hosts),
            _decoded(scheme, path[1:]),
            _options(scheme, query),
        )


def separate(url: str) -> tuple[str, str, str, str]:
    """Return scheme, login with hosts, path with its slash, and query: undecoded, and certainly these.

    Raises:
        UsageError: a piece of a password could be taken for something else.
    """
    text = url.strip()
    found = _SCHEME.match(text)
    if found is None:
        raise UsageError("not a store URL: it begins with a scheme, such as sqlite:///FILE or redis://host")
    scheme = found[1].lower()
    rest = text[found.end() :]
    end = min((rest.find(mark) for mark in "/?" if mark in rest), default=len(rest))
    authority, (path, _, query) = rest[:end], rest[end:].partition("?")
    names_file = _names_file(scheme, authority)
    if "#" in rest and names_file:
        raise _malformed(scheme, f"write {scheme}:///FILE, with ? # and % percent-encoded: for example %23 for #")
    if "#" in rest or authority.count("@") > 1 or ("@" in rest[end:] and not names_file):
        raise _malformed(scheme, _ENCODE)
    return scheme, authority, path, query


def _names_file(scheme: str, authority: str) -> bool:
    return scheme in _WITHOUT_HOST and not authority


def _malformed(scheme: str, text: str) -> UsageError:
    return UsageError(f"the {scheme}:// URL is malformed: {text}")


def _decoded(scheme: str, text: str) -> str:
    if _BAD_PERCENT.search(text) or _SPACE.search(text):
        raise _malformed(scheme, _ENCODE)
    with suppress(UnicodeDecodeError):  # which contains the text, so it must not be the context of another error either
        return unquote(text, errors="strict")
    raise _malformed(scheme, "percent-encoded characters must be UTF-8")


def _hosts(scheme: str, text: str) -> tuple[tuple[str, int | None], ...]:
    if not text:
        return ()
    found: list[tuple[str, int | None]] = []
    for part in text.split(","):
        match = _HOST.fullmatch(part.strip(" "))
        if match is None:
            form = f"hosts are written host:port or [IPv6 address]:port, separated by commas; {_ENCODE}"
            raise _malformed(scheme, form)
        address, name, digits = match.groups()
        port = int(digits) if digits else None
        if port is not None and not 0 < port <= _LAST_PORT:
            raise _malformed(scheme, f"a port is a number from 1 to {_LAST_PORT}; {_ENCODE}")
        found.append((address or _decoded(scheme, name), port))
    return tuple(found)


def _options(scheme: str, query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        name = _decoded(scheme, name)
        if not _OPTION.fullmatch(name):
            raise _malformed(scheme, f"write options as name=value&name=value after the question mark; {_ENCODE}")
        if not equals:
            raise _malformed(scheme, f"it gives {name} without a value: write {name}=...")
        if name in found:
            raise _malformed(scheme, f"it gives {name} twice")
        found[name] = _decoded(scheme, value)
    return found
