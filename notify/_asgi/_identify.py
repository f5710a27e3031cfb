"""Who a client is: what the application's `authenticate` says of its request.

`authenticate` is the application's code, so what goes wrong in it is logged with its traceback, once when it begins to
fail, and answered with 503: the client is not to blame, and comes back. The response never says more than that. The
traceback may quote what the request carried, as in `KeyError: '<a token>'`: credentials of the request are redacted.
"""

from __future__ import annotations

import base64
import inspect
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, TypeAlias
from urllib.parse import quote, quote_plus, unquote

import anyio

from notify import InvalidEventError, UsageError
from notify.adapters import check_user, without_stray_cancellation

from ._reply import WebError
from ._request import Identity, Request

logger = logging.getLogger("notify.web")

Authenticate: TypeAlias = Callable[[Request], "Identity | str | Awaitable[Identity | str | None] | None"]
"""The application's function: it returns who the client is, or None."""

WITHIN: Final = 10.0
"""Seconds that a function of the application may take, such as `authenticate`."""

QUIET: Final = 60.0
"""Seconds in which failures are logged once, where some requests succeed between them."""

MAX_ADDRESSES: Final = 1000
"""Logs that a client may be allowed to name."""

_SECRET_HEADERS: Final = re.compile("auth|cookie|key|secret|session|token|websocket-protocol")
_HARMLESS: Final = frozenset({"bearer", "basic", "notify.v1"})
_LEAST_SECRET: Final = 4

CHALLENGE: Final = (b"www-authenticate", b"Bearer")
"""The header of every 401."""


class Identification:
    """Asks the application.

    Args:
        authenticate: the application's function, plain or async. A plain one runs on the event loop and must not block.
        timeout: seconds that `authenticate` may take, if it is async.

    Raises:
        UsageError: `authenticate` is not a function.
    """

    def __init__(self, authenticate: Authenticate, *, timeout: float = WITHIN) -> None:
        if not callable(authenticate):
            raise UsageError(
                "authenticate must be a function from a request to a user id, an Identity or None, "
                f"not {authenticate!r:.80}"
            )
        self._authenticate = authenticate
        self._timeout = timeout
        self._is_failing = False
        self._quiet_until = 0.0

    async def identify(self, request: Request) -> Identity:
        """Return who sent this request, by `authenticate` alone.

        Raises:
            WebError: 401, the client has no valid credentials; 403, the application refused it; 500 or 503,
                `authenticate` has failed.

        Cancellation: cancels `authenticate`.
        Concurrency: any number of tasks.
        """
        try:
            try:
                found: Any = self._authenticate(request)
            except anyio.get_cancelled_exc_class() as error:  # nothing was awaited, so this task was not cancelled
                raise RuntimeError("authenticate() was cancelled from inside") from error
            if found.__class__ is not str and inspect.isawaitable(found):
                found = await without_stray_cancellation(self._awaited, found)
            identity = checked(found)
        except WebError:
            raise
        except Exception as error:
            refusal = _refusal_of(error)
            if refusal is None:
                self._failed(request, error)
                refusal = _failure_of(error)
            raise refusal from None
        if self._is_failing:
            self._is_failing = False
            logger.warning("authenticate() works again")
        return identity if identity.expires_at is None else still_valid(identity)

    async def _awaited(self, found: Awaitable[Any]) -> Any:
        with anyio.move_on_after(self._timeout):
            return await found
        raise TimeoutError(f"authenticate() has not returned within {self._timeout:g} s")

    def _failed(self, request: Request, error: Exception) -> None:
        now = monotonic()
        if not self._is_failing and now >= self._quiet_until:
            logger.error("authenticate() failed, so clients get errors until it works: %s", redacted(error, request))
            self._is_failing, self._quiet_until = True, now + QUIET


def redacted(error: BaseException, request: Request) -> str:
    """Return the traceback of an error without what the request carried as credentials, however they are written."""
    text = "".join(traceback.format_exception(error)).rstrip()
    secrets = {form for secret in _secrets(request) for form in _forms(secret) if len(form) >= _LEAST_SECRET}
    for secret in sorted(secrets - _HARMLESS, key=len, reverse=True):
        text = text.replace(secret, "...")
    return text


def _secrets(request: Request) -> Iterable[str]:
    for name, value in request.headers.items():
        if _SECRET_HEADERS.search(name):
            yield value
            yield from re.split(r"[\s,]+", value)
    yield from request.cookies.values()
    yield from request.query.values()
    query = request.scope.get("query_string", b"").decode("latin-1")
    yield from (field.partition("=")[2] for field in query.split("&"))  # as it is in the URL: `%2f` is `%2F`, too
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            pair = base64.b64decode(given).decode()
            yield from (pair, pair.partition(":")[2])


def _forms(secret: str) -> Iterable[str]:
    """Yield a secret as it is and decoded, each of them percent-encoded too, and all of these as `repr` shows them."""
    for plain in (secret, unquote(secret)):
        for form in (plain, quote(plain), quote(plain, safe=""), quote_plus(plain)):
            yield from (form, repr(form)[1:-1])


class WrongIdentityError(TypeError):
    """The application's function returned something else."""


def checked(found: Any) -> Identity:
    """Return what `authenticate` has returned as an identity.

    Ids that cannot be those of a user usually were taken from the request, so they are the client's fault.
    """
    if found is None:
        raise WebError(401, "unauthenticated", "credentials are missing or not valid", [CHALLENGE])
    if found.__class__ is str:
        return Identity(_known_user(found))
    identity: Any = Identity(found) if isinstance(found, str) else found
    if not isinstance(identity, Identity):
        raise WrongIdentityError(
            f"authenticate() must return a str, an Identity or None, not {type(found).__name__}; "
            "convert an id of another type, such as a number, with str(...)"
        )
    expires: Any = identity.expires_at
    addresses: Any = identity.addresses
    if expires is not None and (not isinstance(expires, datetime) or expires.utcoffset() is None):
        raise WrongIdentityError("Identity.expires_at must be a datetime with a time zone")
    if isinstance(addresses, str):
        raise WrongIdentityError("Identity.addresses must be a list of names of logs, not one str")
    if not isinstance(addresses, Iterable):
        raise WrongIdentityError(f"Identity.addresses must be a list of names of logs, not {type(addresses).__name__}")
    addresses = tuple(addresses)
    names: list[Any] = [identity.user, *addresses, *([] if identity.session == "" else [identity.session])]
    if len(addresses) > MAX_ADDRESSES or not all(isinstance(name, str) for name in names):
        raise WrongIdentityError(f"an Identity has a user, a session and up to {MAX_ADDRESSES} addresses, each a str")
    for name in names:
        _known_user(name)
    return Identity(identity.user, addresses, expires, identity.session)


def _known_user(name: str) -> str:
    try:
        check_user(name)
    except InvalidEventError:
        message = "the credentials do not name a user: an id has 1 to 255 bytes without control characters"
        raise WebError(401, "unauthenticated", message, [CHALLENGE]) from None
    return name


def still_valid(identity: Identity) -> Identity:
    """Return the identity; raise WebError, 401, if it has expired."""
    if identity.expires_at is not None and identity.expires_at <= datetime.now(UTC):
        raise WebError(401, "expired", "the credentials have expired: renew them", [CHALLENGE])
    return identity


def _refusal_of(error: Exception) -> WebError | None:
    """Return the answer for an exception of a web framework that means "refused", such as `HTTPException(401)`."""
    status = getattr(error, "status_code", None)
    if status == 401:
        return WebError(401, "unauthenticated", "credentials are missing or not valid", [CHALLENGE])
    return WebError(403, "forbidden", "the application refused the client") if status == 403 else None


def _failure_of(error: Exception) -> WebError:
    if isinstance(error, WrongIdentityError):
        return WebError(500, "authenticate_failed", str(error))
    message = "authenticate() of the application failed: this is not the client's fault; the server's log says more"
    return WebError(503, "authenticate_failed", message)
