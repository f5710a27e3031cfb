"""`FcmChannel`: apps on Android, iOS and the web, through Firebase Cloud Messaging."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import quote

import anyio
import anyio.from_thread
import anyio.to_thread

from notify import UsageError
from notify.http import HttpAnswer, HttpClient, HttpError

from .._channel import Job
from .._outcomes import EndpointGone, Misconfigured, Outcome, Rejected, Transient
from ._fcm_message import KINDS, UnsendableError, fcm_message, outcome
from ._requests import HttpChannel, encoded, missing, unanswered

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"

_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
"""An access token: it becomes part of a header."""

MARGIN: Final = 300.0
"""Seconds before its end at which a token is replaced."""

SILENCE: Final = timedelta(days=270)
"""FCM drops the token of a device that is unused for this long, so an app that has not registered since is gone."""


class FcmChannel(HttpChannel):
    """Sends to registration tokens, installation ids and topics: `Endpoint.kind` is `token` (or empty), `fid`, `topic`.

    Args:
        project: the id of the Firebase project; None: not configured, so every message ends as `Misconfigured`.
        credentials: the path of a service account's JSON file, its content as a mapping, or a `Credentials` object of
            google-auth; None: not configured.
        android_channel: the notification channel for urgent messages on Android, which the app has to create.
        message: a function from the job and the message of the HTTP v1 API to the message that is sent.
        validate_only: FCM checks the messages and delivers none.
        client: sends the requests, including those for access tokens; None: a pool of its own.
        timeout: seconds for one request.
        allow_private: whether the pool connects to addresses that are not public.
        base: the URL of the server, for one with the same API.
        wall_clock: returns the seconds since 1970, for the expiry of access tokens.

    Raises:
        UsageError: an argument is not valid, or the extra `fcm` is not installed.
    """

    has_endpoints: ClassVar = True
    deduplicates: ClassVar = True

    def __init__(
        self,
        project: str | None,
        credentials: str | os.PathLike[str] | Mapping[str, Any] | Any | None,
        *,
        android_channel: str = "high_importance_channel",
        message: Callable[[Job, dict[str, Any]], dict[str, Any]] = lambda _, message: message,
        validate_only: bool = False,
        client: HttpClient | None = None,
        timeout: float = 15.0,
        allow_private: bool = False,
        base: str = "https://fcm.googleapis.com",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            import google.auth as google_auth
        except ImportError as error:
            raise UsageError(missing("FcmChannel", "fcm")) from error
        del google_auth
        super().__init__("fcm", client, timeout, allow_private)
        self._url = project and f"{base.rstrip('/')}/v1/projects/{quote(project, safe='')}/messages:send"
        self._tokens = credentials and AccessTokens(credentials, self._client, timeout, wall_clock)
        self._android_channel = android_channel
        self._message = message
        self._options = {"validate_only": True} if validate_only else {}
        self._clock = wall_clock

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`. The provider's id is the last part of the message's name."""
        assert job.endpoint is not None, "FCM sends to an endpoint"
        if not self._url or not self._tokens:
            return Misconfigured("FCM is not configured: pass project= and credentials= to FcmChannel")
        kind = job.endpoint.kind or "token"
        if kind not in KINDS:
            return Rejected("kind", is_unclear=True, error=f"the kind of an FCM endpoint is one of {', '.join(KINDS)}")
        seen = job.endpoint.last_seen_at
        if kind != "topic" and seen is not None and job.now - seen > SILENCE:
            return EndpointGone("silent")
        try:
            message = self._message(job, fcm_message(job, kind, job.endpoint.address, self._android_channel))
        except UnsendableError as error:
            return Rejected("unsendable", error=str(error))
        content = encoded({**self._options, "message": message})
        token = await self._tokens.get()
        if not isinstance(token, str):
            return token
        try:
            answer = await self._attempt(self._url, token, content)
            if answer.status == 401 and b"THIRD_PARTY_AUTH_ERROR" not in answer.body:
                token = await self._tokens.get(refused=token)  # one that is refused is replaced once
                if not isinstance(token, str):
                    return token
                answer = await self._attempt(self._url, token, content)
        except HttpError as error:
            return unanswered(error, is_provider=True)
        return outcome(answer, self._clock())

    async def _attempt(self, url: str, token: str, content: bytes) -> HttpAnswer:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
        return await self._post(url, headers, content)


class FetchedToken(NamedTuple):
    """A token, the credentials that it was fetched with, and when it ends, in seconds since 1970."""

    credentials: Any
    token: str
    expires: float


class AccessTokens:
    """The token with which a channel logs in: fetched when it is needed first, replaced before it ends.

    Invariants:
        I1: one task fetches at a time; those that wait for it take its result, also if that is a failure.
    """

    def __init__(self, credentials: Any, client: HttpClient, timeout: float, clock: Callable[[], float]) -> None:
        self._given = credentials
        self._client = client
        self._timeout = timeout
        self._clock = clock
        self._loaded: Any = None
        self._lock = anyio.Lock()
        self._token = ""
        self._expires = 0.0
        self._fetched = 0
        self._failure: Transient | Misconfigured | None = None

    async def get(self, *, refused: str = "") -> str | Transient | Misconfigured:
        """Return a token that is not `refused`, or why there is none."""
        before = self._fetched
        async with self._lock:  # keeps I1
            if self._fetched != before and self._failure is not None:
                return self._failure
            if self._token and self._token != refused and self._clock() < self._expires - MARGIN:
                return self._token
            fetched: FetchedToken | Transient | Misconfigured
            fetched = Transient("token", error="the access token could not be fetched in time")
            with anyio.move_on_after(self._timeout):
                fetched = await anyio.to_thread.run_sync(self._fetch, self._loaded, abandon_on_cancel=True)
            self._fetched += 1
            if not isinstance(fetched, FetchedToken):
                self._failure = fetched
                return fetched
            self._failure = None
            self._loaded, self._token, self._expires = fetched
            return self._token

    def _fetch(self, loaded: Any) -> FetchedToken | Transient | Misconfigured:
        """Fetch a token, in a worker thread: the library that signs the request for it is synchronous.

        It changes nothing here: a thread that was abandoned may end while the next one is at work.
        """
        from google.auth import exceptions

        try:
            credentials = _load(self._given) if loaded is None else loaded
            credentials.refresh(self._request)
        except exceptions.RefreshError as error:
            if error.retryable:
                return Transient("token", error="the access token could not be fetched")
            return Misconfigured("Google refused the credentials= of FcmChannel")
        except exceptions.TransportError:
            return Transient("token", error="the access token could not be fetched")
        except (exceptions.GoogleAuthError, OSError, ValueError):
            return Misconfigured("the credentials= of FcmChannel cannot be read, or are not those of a service account")
        except (TypeError, ArithmeticError, RecursionError):  # raised by google-auth for a malformed answer
            return Transient("token", error="the answer of the token server is malformed")
        token, expiry = credentials.token, credentials.expiry  # naive, in UTC
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return Transient("token", error="the answer of the token server is malformed")
        return FetchedToken(credentials, token, float("inf") if expiry is None else _seconds(expiry))

    def _request(
        self, url: str, method: str = "GET", body: bytes | str | None = None, headers: Any = None, **_: Any
    ) -> TokenAnswer:
        """Send a request of the library, from its thread, with the client of the channel."""
        from google.auth import exceptions

        anyio.from_thread.check_cancelled()  # the library tries again several times, also when it is too late
        content = body.encode() if isinstance(body, str) else body or b""
        call = partial(self._client.request, headers=dict(headers or {}), content=content, timeout=self._timeout)
        try:
            return TokenAnswer(anyio.from_thread.run(call, method, url))
        except HttpError as error:
            raise exceptions.TransportError(error.code) from None  # type: ignore[no-untyped-call]


class TokenAnswer:
    """An answer as google-auth reads it."""

    def __init__(self, answer: HttpAnswer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.data = answer.body


def _load(given: Any) -> Any:
    """Return credentials with the scope of messaging."""
    from google.auth.credentials import with_scopes_if_required
    from google.oauth2 import service_account

    if isinstance(given, str | os.PathLike):
        given = json.loads(Path(given).read_text(encoding="utf-8"))
    if not isinstance(given, Mapping) and not hasattr(given, "refresh"):
        raise ValueError("not credentials")
    if isinstance(given, Mapping):
        return service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
            given, scopes=[SCOPE]
        )
    return with_scopes_if_required(given, [SCOPE])  # type: ignore[no-untyped-call]


def _seconds(expiry: Any) -> float:
    """Return the seconds since 1970 of a naive datetime in UTC."""
    from datetime import UTC

    return float(expiry.replace(tzinfo=UTC).timestamp())
