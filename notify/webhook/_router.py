"""Posts events to webhook endpoints: signed, with retries, and never into a private network unless that is allowed."""

from __future__ import annotations

import logging
import random
import secrets
import ssl
import time
from collections.abc import Iterable
from hashlib import sha256
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

import anyio

from notify import BackendError, Event, Guarantees, RoutingInfo, UsageError
from notify.adapters import LoopGuard, OutageLog, backoff
from notify.http import HttpError, HttpPool

from ._endpoint import WebhookEndpoint
from ._signature import signed

logger = logging.getLogger("notify")

RETRIED: Final = frozenset({408, 425, 429})
"""Statuses below 500 after which the same message may succeed later."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0


class WebhookDeliveryError(BackendError):
    """No endpoint that wants the event has accepted it.

    Attributes:
        attempts: how often delivery to the last of these endpoints was tried.
        status: the last HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, *, attempts: int, status: int | None) -> None:
        super().__init__(message, backend="WebhookRouter")
        self.attempts = attempts
        self.status = status


class Answer(NamedTuple):
    """The response to one attempt."""

    status: int
    retry_after: float | None


class WebhookRouter:
    """A router that posts every stored event to the endpoints that want it, whatever presence says.

    An endpoint gets `POST` with the JSON of `Event.to_json`, whose member `payload` is the payload as it was pushed,
    signed by the Standard Webhooks specification. `webhook-id` is the same at every attempt, so that a receiver can
    recognise a repetition. Events may arrive out of order: `id` and `prev` give the order.

    Deliveries exist only in this process: one that has not succeeded when the process ends, or after the last attempt,
    is not tried again.

    Args:
        endpoints: where to post.
        retries: further attempts after the first one.
        timeout: seconds that one attempt may take, from the connection to the end of the answer.
        max_retry_after: seconds that a `Retry-After` may ask for; if it asks for more, the delivery fails.
        allow_private: whether to connect to addresses that are not public, such as those of your own network.
        ssl_context: how the certificates of endpoints are checked, for example by a private authority.

    Raises:
        UsageError: an argument is unacceptable, or the extra `webhook` is not installed.
    """

    every_event: ClassVar = True
    guarantees: ClassVar = Guarantees(shared=True)

    def __init__(
        self,
        endpoints: Iterable[WebhookEndpoint],
        *,
        retries: int = 4,
        timeout: float = 10.0,
        max_retry_after: float = 60.0,
        allow_private: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._endpoints = [*endpoints]
        for endpoint in self._endpoints:
            if not isinstance(endpoint, WebhookEndpoint):
                raise UsageError(f"endpoints must be WebhookEndpoint objects, not {type(endpoint).__name__}")
        _check_numbers(retries=retries, timeout=timeout, max_retry_after=max_retry_after)
        self._retries = retries
        self._timeout = timeout
        self._max_retry_after = max_retry_after
        self._guard = LoopGuard("WebhookRouter")
        self._client = _pool(allow_private, ssl_context)
        self._outages = {
            endpoint: OutageLog(
                logger, f"webhooks to {endpoint.name} fail", f"webhooks to {endpoint.name} succeed again"
            )
            for endpoint in self._endpoints
        }

    @property
    def route_timeout(self) -> float:
        """Seconds that one `route` may take: all attempts, and the delays between them."""
        return (self._retries + 1) * self._timeout + self._retries * max(LONGEST_DELAY, self._max_retry_after)

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """Post the event to each endpoint that wants it; return once each has accepted it or failed.

        Raises:
            WebhookDeliveryError: every endpoint that wants it has failed. If only some have, that is only logged.
            ClosedError: the router is closed.

        Cancellation: ends the delivery at once; an endpoint may have accepted the event.
        """
        self._guard.check()
        wanting = [endpoint for endpoint in self._endpoints if endpoint.wants(event)]
        body = event.to_json().encode() if wanting else b""
        id_ = message_id(event)
        failures: list[WebhookDeliveryError] = []

        async def deliver(endpoint: WebhookEndpoint) -> None:
            try:
                await self._deliver(endpoint, id_, body)
            except WebhookDeliveryError as error:
                self._outages[endpoint].failed(error)
                failures.append(error)
            else:
                self._outages[endpoint].recovered()

        async with anyio.create_task_group() as group:
            for endpoint in wanting:
                group.start_soon(deliver, endpoint)
        if failures and len(failures) == len(wanting):
            raise failures[-1]

    async def aclose(self) -> None:
        """Close the connections; later calls raise ClosedError. Idempotent."""
        self._guard.close()
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the router."""
        self._guard.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    async def _deliver(self, endpoint: WebhookEndpoint, id_: str, body: bytes) -> None:
        """Post one message until it is accepted, at most `retries` times more."""
        delays = backoff(random.random, first=FIRST_DELAY, limit=LONGEST_DELAY)
        attempts = 0
        while True:
            attempts += 1
            answer, failure = await self._attempt(endpoint, id_, body)
            if answer is not None and 200 <= answer.status < 300:
                return
            status = None if answer is None else answer.status
            message = f"{endpoint.name} {failure}, after {attempts} attempt{'s' * (attempts > 1)}"
            wait = next(delays)
            if answer is not None:
                if answer.status < 500 and answer.status not in RETRIED:
                    raise WebhookDeliveryError(message, attempts=attempts, status=status)
                if answer.retry_after is not None:
                    wait = answer.retry_after
                if answer.retry_after is not None and wait > self._max_retry_after:
                    message += f", and asked for {wait:.0f} s until the next (max_retry_after)"
                    raise WebhookDeliveryError(message, attempts=attempts, status=status)
            if attempts > self._retries:
                raise WebhookDeliveryError(message, attempts=attempts, status=status)
            await anyio.sleep(wait)

    async def _attempt(self, endpoint: WebhookEndpoint, id_: str, body: bytes) -> tuple[Answer | None, str]:
        """Post once; return the answer, and what to call it if it is a failure."""
        timestamp = str(int(time.time()))
        headers = {
            **endpoint.headers,
            "Content-Type": "application/json",
            "User-Agent": "notify-streams",
            "webhook-id": id_,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(signed(key, id_, timestamp, body) for key in endpoint.keys),
        }
        try:
            found = await self._client.request(
                "POST", endpoint.url, headers=headers, content=body, timeout=self._timeout
            )
        except HttpError as error:
            if error.code == "address":
                raise WebhookDeliveryError(f"nothing was sent: {error}", attempts=0, status=None) from error
            if error.code == "timeout":
                return None, f"did not answer within {self._timeout:g} s"
            return None, f"could not be reached: {error}"
        if found.is_cut:
            return None, "broke off its answer"
        redirect = " (a redirect, which is not followed)" if 300 <= found.status < 400 else ""
        return Answer(found.status, found.retry_after(time.time())), f"answered {found.status}{redirect}"


def _check_numbers(retries: Any, **seconds: Any) -> None:
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise UsageError(f"retries must be an int of at least 0, not {retries!r}")
    for name, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UsageError(f"{name} must be a number of seconds greater than 0, not {value!r}")


def message_id(event: Event) -> str:
    """Return the `webhook-id`: the same for the same stored event in every process; random for ephemeral ones."""
    if not event.id:
        return f"msg_{secrets.token_hex(16)}"
    return f"msg_{sha256(f'{event.id} {event.user}'.encode()).hexdigest()[:32]}"


def _pool(allow_private: bool, ssl_context: ssl.SSLContext | None) -> HttpPool:
    """Return a pool, or name the extra that is missing."""
    try:
        return HttpPool(allow_private=allow_private, ssl_context=ssl_context)
    except ImportError as error:
        raise UsageError("WebhookRouter needs the extra webhook: pip install 'notify-streams[webhook]'") from error
