"""`WebhookChannel`: signed JSON to a URL of the recipient."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from notify import UsageError
from notify.http import HttpAnswer, HttpClient, HttpError
from notify.webhook import WebhookEndpoint, sign

from .._channel import Job
from .._outcomes import Accepted, EndpointGone, Misconfigured, Outcome, Rejected, Throttled, Transient
from .._retry import RETIRING
from ..abc import Endpoint
from ._requests import HttpChannel, encoded, gate_of, origin, unanswered


def webhook_payload(job: Job) -> Mapping[str, Any]:
    """Return what is posted: `type`, `timestamp`, `data` (what was submitted), and the text where there is any."""
    text = {"title": job.content.title, "body": job.content.body, "url": job.content.url}
    payload: dict[str, Any] = {
        "type": job.type,
        "data": job.data,
        **{key: value for key, value in text.items() if value},
    }
    if job.created_at is not None:
        payload["timestamp"] = job.created_at.isoformat()
    return payload


class WebhookChannel(HttpChannel):
    """Posts to the endpoint's address, signed by the Standard Webhooks specification.

    `webhook-id` is the id of the delivery, so that the receiver recognises a repetition. An answer of 410 retires the
    endpoint. Redirects are not followed. The secret is `Endpoint.meta["secret"]`, or that of the channel.

    Args:
        secret: signs messages to endpoints that have no secret of their own; several while one is being replaced.
        payload: a function from the job to the JSON value that is posted.
        headers: further headers of each request.
        client: sends the requests; None: a pool that refuses private addresses.
        timeout: seconds for one request.
        allow_private: whether the pool connects to addresses that are not public.
        wall_clock: returns the seconds since 1970 that are signed.

    Raises:
        UsageError: an argument is not valid, or the extra `webhook` is not installed.
    """

    has_endpoints: ClassVar = True
    deduplicates: ClassVar = True
    retries: ClassVar = RETIRING

    def __init__(
        self,
        secret: str | bytes | Iterable[str | bytes] | None = None,
        *,
        payload: Callable[[Job], Any] = webhook_payload,
        headers: Mapping[str, str] | None = None,
        client: HttpClient | None = None,
        timeout: float = 15.0,
        allow_private: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if secret is not None and not isinstance(secret, str | bytes):
            secret = tuple(secret)
        if secret is not None or headers:
            WebhookEndpoint("https://example.com/", secret or b"unused", headers=headers)  # checks both
        super().__init__("webhook", client, timeout, allow_private)
        self._secret = secret
        self._payload = payload
        self._headers = dict(headers or {})
        self._clock = wall_clock

    def gate(self, endpoint: Endpoint) -> str:
        """See `Gated.gate`: the origin of the endpoint's address."""
        return gate_of(endpoint.address)

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        assert job.endpoint is not None, "a webhook is sent to an endpoint"
        url, secret = job.endpoint.address, job.endpoint.meta.get("secret") or self._secret
        if not secret:
            return Misconfigured("the endpoint has no secret in its meta, and WebhookChannel has no secret=")
        try:
            WebhookEndpoint(url, secret)
        except UsageError as error:
            return Rejected("endpoint", is_unclear=True, error=str(error))
        body = encoded(self._payload(job))
        timestamp = int(self._clock())
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "webhook-id": job.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, job.id, timestamp, body),
        }
        try:
            answer = await self._post(url, headers, body)
        except HttpError as error:
            return unanswered(error, is_provider=False)
        return _outcome(answer, origin(url), self._clock())


def _outcome(answer: HttpAnswer, gate: str, now: float) -> Outcome:
    status, code, wait = answer.status, str(answer.status), answer.retry_after(now)
    if 200 <= status < 300:
        return Accepted()
    if status == 410:
        return EndpointGone(code)
    if status == 429:
        return Throttled(wait, gate)
    if status >= 500 or status in {408, 425}:
        return Transient(code, wait)
    return Rejected(code, is_unclear=status not in {401, 403, 413})  # these are about the secret, or the message
