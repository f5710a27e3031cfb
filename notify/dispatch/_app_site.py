"""What the handlers of one `DispatchApp` share, and who may do what."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from notify import UsageError
from notify._asgi import WITHIN, CrossSiteRules, Identification, Identity, Reply, Request, WebError
from notify._asgi import Receive as Receive
from notify.adapters import without_stray_cancellation

from ._channel_log import place_of
from ._checks import check_name
from ._dispatcher import Dispatcher
from ._parts import DispatchParts
from ._report import Report
from ._types import Recipient

logger = logging.getLogger("notify")


ReadReports: TypeAlias = Callable[[Request, bytes], "Iterable[Report] | Awaitable[Iterable[Report] | None] | None"]
"""From a provider's request and its body to reports. It verifies the signature: None means that it is not valid."""

NamedAudience: TypeAlias = Callable[[str], AsyncIterable[str | Recipient]]
"""A function that yields recipients after a given id; see `Audience`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSite:
    """The parts of an application; see `DispatchApp`."""

    dispatcher: Dispatcher
    parts: DispatchParts
    identification: Identification
    rules: CrossSiteRules
    admin: Callable[[Identity], Any] | None
    session_of: Callable[[Request], str | None] | None
    audiences: Mapping[str, NamedAudience]
    callbacks: Mapping[str, ReadReports]
    devices: frozenset[str]
    web_push: str
    unsubscribe_page: Callable[..., str]
    allow_private: bool
    max_devices: int
    max_body: int
    timeout: float

    async def check_admin(self, request: Request) -> Identity:
        """Return the identity behind a request, if `admin` accepts it.

        Raises:
            WebError: 404, there is no `admin`; 401; 403, it refuses; 503, it failed.
        """
        if self.admin is None:
            raise WebError(404, "not_found", "there is nothing at this path: it needs admin=")
        identity = await self.identification.identify(request)
        if await asked("admin", self.admin, identity) is not True:
            raise WebError(403, "forbidden", "this is for administrators")
        return identity


Handler: TypeAlias = Callable[[DispatchSite, Request, Receive, Mapping[str, str]], Awaitable[Reply]]
"""Answers one request, whose names in the path are the last argument."""


async def called(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function of the application returns, which may be async.

    Raises:
        TimeoutError: it has not returned within `WITHIN` seconds, the limit for `authenticate` too.
    """
    return await without_stray_cancellation(_result, function, *arguments)


async def _result(function: Callable[..., Any], *arguments: object) -> Any:
    result = function(*arguments)
    if not inspect.isawaitable(result):
        return result
    with anyio.move_on_after(WITHIN):
        return await result
    raise TimeoutError  # without a message, because `place_of` logs only the type and this line


async def asked(name: str, function: Callable[..., Any], argument: object) -> Any:
    """Return what a function of the application says, which may be async.

    Raises:
        WebError: 503, it failed; only the log says how.
    """
    try:
        return await called(function, argument)
    except WebError:
        raise
    except Exception as error:
        log_failure(f"{name}=", error)
        raise WebError(503, f"{name}_failed", f"{name}= of the application failed: the log says more") from None


def log_failure(what: str, error: BaseException) -> None:
    """Log that a function of the application failed."""
    logger.error("%s of the DispatchApp failed: %s", what, place_of(error))


def check_functions(what: str, given: object) -> dict[str, Any]:
    """Return functions by name; raise UsageError if they are something else."""
    if not isinstance(given, Mapping) or not all(callable(each) for each in given.values()):
        raise UsageError(f"DispatchApp: {what} must be functions by name, not {given!r:.80}")
    return {check_name(f"DispatchApp: a name in {what}", name): each for name, each in given.items()}


def check_devices(devices: Collection[str] | None, parts: DispatchParts) -> frozenset[str]:
    """Return the channels for which clients may register devices, beside web push.

    Raises:
        UsageError: one of them is not installed, or has no endpoints.
    """
    if devices is None:
        return frozenset({"fcm"} & {name for name, each in parts.channels.items() if each.has_endpoints})
    if isinstance(devices, str):
        raise UsageError(f"DispatchApp: devices must be a list of channels, not {devices!r:.80}")
    for name in devices:
        if name not in parts.channels or not parts.channels[name].has_endpoints:
            raise UsageError(f"DispatchApp: devices has {name!r:.80}, which is not a channel with endpoints")
    return frozenset(devices)


def members_of(found: Mapping[str, Any], code: str, known: Iterable[str], required: Iterable[str] = ()) -> None:
    """Raise WebError, 422, if a JSON object has other members, or lacks some."""
    names = [*required, *known]
    if unknown := sorted(found.keys() - {*names}):
        raise WebError(422, code, f"unknown member {unknown[0]!r:.80}; known are {', '.join(sorted(names))}")
    if missing := [name for name in required if name not in found]:
        raise WebError(422, code, f"{missing[0]} is missing")


def text_of(found: Mapping[str, Any], name: str, code: str, *, most: int = 255, default: str = "") -> str:
    """Return a member that is text; raise WebError, 422, if it is not, is too long, or has control characters."""
    value = found.get(name, default)
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise WebError(422, code, f"{name} must be text of at most {most} characters, without control characters")
    return value
