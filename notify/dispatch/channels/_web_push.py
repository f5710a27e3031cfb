"""`WebPushChannel`: messages to browsers in which no page is open, by RFC 8030, 8291 and 8292."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, ClassVar, Final, Literal

from notify import UsageError
from notify.http import HttpAnswer, HttpClient, HttpError

from .._channel import Job
from .._outcomes import Accepted, EndpointGone, Misconfigured, Outcome, Rejected, Throttled, Transient
from ..abc import Endpoint
from ._requests import HttpChannel, encoded, gate_of, missing, origin, unanswered
from ._web_push_crypto import MAX_PLAINTEXT, VapidSigner, check_subject, decode, encrypt

LONGEST_TTL: Final = 28 * 86_400
"""Seconds: what push services keep a message for at most."""

_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_OTHER_KEY: Final = b"VapidPkHashMismatch"
"""The reason that a push service gives for a subscription that was made with another key."""


def web_push_payload(job: Job) -> Mapping[str, Any]:
    """Return what the service worker gets, without what is empty.

    `title`, `body`, `url`, `icon`, `image`, `tag`, `silent`, `actions` (each with `action`, `title` and `url`), `data`
    (what was submitted), `type`, `id` (of the delivery), `notification`, and `dismiss` (`Job.dismiss_url`). The tag is
    that of the content, else what the notification replaces, else the delivery's id: a repeated message is shown once.
    """
    content = job.content
    payload = {
        "title": content.title,
        "body": content.body or content.short,
        "url": content.url,
        "icon": content.icon,
        "image": content.image,
        "tag": content.tag or job.collapse or job.id,
        "silent": content.silent,
        "actions": [{"action": each.id, "title": each.title, "url": each.url} for each in content.actions],
        "data": {**job.data, **content.data},
        "type": job.type,
        "id": job.id,
        "notification": job.notification,
        "dismiss": job.dismiss_url,
    }
    return {name: value for name, value in payload.items() if value}


class WebPushChannel(HttpChannel):
    """Encrypts each message for its subscription and posts it to the browser's push service.

    An endpoint's address is that of the subscription; its `meta` has the subscription's keys `p256dh` and `auth`, and
    as `vapid` the public key with which it was made. A message over 3993 bytes is refused, or shortened to what fits.

    The `Topic` of a message is `Job.collapse`, or else the id of the delivery: a repeated message replaces the first
    one while that waits for the browser.

    Args:
        private_key: the VAPID key, from `generate_vapid_key` or as PEM; several while one is being replaced, of which
            the first is for new subscriptions; None: not configured, so every message ends as `Misconfigured`.
        subject: where push services can contact you: `"mailto:ops@example.com"` or an https URL.
        payload: a function from the job to the JSON object that is sent.
        oversize: what to do with a larger message: `"refuse"` it, or `"shorten"`: send it without actions, images and
            data, with the member `"short": true`, so that the service worker can fetch the rest.
        client: sends the requests; None: a pool that refuses private addresses.
        timeout: seconds for one request.
        allow_private: whether to post to addresses that are not public, and over http.
        wall_clock: returns the seconds since 1970, for the expiry of the signatures.

    Raises:
        UsageError: an argument is not valid, or the extra `webpush` is not installed.
    """

    has_endpoints: ClassVar = True
    deduplicates: ClassVar = True

    def __init__(
        self,
        private_key: str | Iterable[str] | None,
        *,
        subject: str,
        payload: Callable[[Job], Mapping[str, Any]] = web_push_payload,
        oversize: Literal["refuse", "shorten"] = "refuse",
        client: HttpClient | None = None,
        timeout: float = 15.0,
        allow_private: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if oversize not in ("refuse", "shorten"):
            raise UsageError(f"oversize must be 'refuse' or 'shorten', not {oversize!r:.80}")
        check_subject(subject)
        super().__init__("webpush", client, timeout, allow_private)
        try:
            import http_ece as http_ece  # type: ignore[import-untyped]

            given = [private_key] if isinstance(private_key, str) else [*(private_key or ())]
            self._signers = {signer.public_key: signer for signer in (VapidSigner(key, subject) for key in given)}
        except ImportError as error:
            raise UsageError(missing("WebPushChannel", "webpush")) from error
        self._payload = payload
        self._shortens = oversize == "shorten"
        self._schemes = {"https", "http"} if allow_private else {"https"}
        self._clock = wall_clock

    @property
    def public_key(self) -> str:
        """The key for `pushManager.subscribe({applicationServerKey})`, and for `Endpoint.meta["vapid"]`.

        Raises:
            UsageError: the channel has no key.
        """
        for key in self._signers:
            return key
        raise UsageError("web push is not configured: pass private_key= to WebPushChannel")

    @property
    def public_keys(self) -> list[str]:
        """The public keys of all keys, `public_key` first; empty: the channel has none."""
        return [*self._signers]

    def gate(self, endpoint: Endpoint) -> str:
        """See `Gated.gate`: the origin of the endpoint's address."""
        return gate_of(endpoint.address)

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        assert job.endpoint is not None, "web push is sent to an endpoint"
        endpoint, url = job.endpoint, job.endpoint.address
        if not self._signers:
            return Misconfigured("web push is not configured: pass private_key= to WebPushChannel")
        signer = self._signers.get(endpoint.meta.get("vapid") or self.public_key)
        if signer is None:
            return Rejected("vapid", is_unclear=True, error="the subscription was made with another VAPID key")
        try:
            audience = origin(url)
            is_allowed = audience.partition(":")[0] in self._schemes and url.isascii()
            p256dh, auth = decode(endpoint.meta["p256dh"]), decode(endpoint.meta["auth"])
        except (ValueError, KeyError):
            return Rejected("subscription", is_unclear=True, error="the endpoint has no URL, or lacks keys in its meta")
        if not is_allowed:
            return Rejected("address", is_unclear=True, error="the URL of a subscription must be https")
        content = self._content(job)
        if len(content) > MAX_PLAINTEXT:
            return Rejected("too_large", error=f"the message has {len(content)} bytes; {MAX_PLAINTEXT} are allowed")
        try:
            body = encrypt(content, p256dh, auth)  # 0.13 ms: less than it costs to hand it to a thread
        except ValueError:
            return Rejected("subscription", is_unclear=True, error="the keys of the subscription are malformed")
        now = self._clock()
        try:
            answer = await self._post(url, {**headers(job), "Authorization": signer.authorization(audience, now)}, body)
        except HttpError as error:
            return unanswered(error, is_provider=False)
        return outcome(answer, audience, now)

    def _content(self, job: Job) -> bytes:
        """Return the JSON of the message: the whole one if that fits, or if it is not to be shortened."""
        payload = dict(self._payload(job))
        content = encoded(payload)
        if len(content) <= MAX_PLAINTEXT or not self._shortens:
            return content
        kept = ("title", "body", "url", "tag", "silent", "type", "id", "notification", "dismiss")
        short = {**{name: payload[name] for name in kept if name in payload}, "short": True}
        body = str(short.get("body", ""))
        while len(content := encoded(short)) > MAX_PLAINTEXT and body:
            body = body[: max(0, len(body) - max(1, (len(content) - MAX_PLAINTEXT) // 6))]
            short["body"] = body and body + "\u2026"
        return content


def headers(job: Job) -> dict[str, str]:
    """Return the headers of RFC 8030 and of the encryption."""
    ttl = LONGEST_TTL
    if job.expires_at is not None:
        ttl = max(0, min(ttl, int((job.expires_at - job.now).total_seconds())))
    urgency = {"low": "low", "normal": "normal"}.get(job.priority, "high")
    name = job.collapse or job.id
    topic = name if _TOPIC.fullmatch(name) else urlsafe_b64encode(sha256(name.encode()).digest())[:32].decode()
    return {
        "TTL": str(ttl),
        "Urgency": "very-low" if job.is_digest else urgency,
        "Topic": topic,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
    }


def outcome(answer: HttpAnswer, gate: str, now: float) -> Outcome:
    """Return what the answer of a push service means."""
    status, code, wait = answer.status, str(answer.status), answer.retry_after(now)
    if 200 <= status < 300:
        return Accepted()
    if status in {404, 410}:
        return EndpointGone(code)
    if status in {400, 403} and _OTHER_KEY in answer.body:
        return Rejected("vapid", is_unclear=True, error="the subscription was made with another VAPID key")
    if status in {401, 403}:
        return Misconfigured(f"{gate} answered {code}: it does not accept the VAPID key or subject=")
    if status == 413:
        return Rejected(code, error="the push service takes only smaller messages")
    if status == 429:
        return Throttled(wait, gate)
    if status >= 500 or status in {408, 425}:
        return Transient(code, wait)
    return Rejected(code, is_unclear=True)
