"""Which programs may push by `POST /push`: those that know a secret.

A program sends it as `Authorization: Bearer <secret>`, or signs the request with it by the Standard Webhooks
specification. A signature does not reveal the secret, covers the body, and is refused when it is older than five
minutes; its `webhook-id` makes the push idempotent, so a recorded request that is sent again stores nothing. An
ephemeral push is not in the store: it is recognised by the process that received it, and by no other.

Secrets are compared in constant time, all of them at each attempt. An address from which wrong ones come has to wait.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from time import monotonic, time
from typing import Any, Final

from notify import UsageError
from notify._asgi import Request, WebError
from notify.webhook import WebhookVerificationError, sign, verify

from ._throttle import Throttle

MAX_SEEN: Final = 10_000
"""Signed messages that are remembered, so that a repeated one is not shown twice where nothing is stored."""

_CHALLENGE: Final = (b"www-authenticate", b"Bearer")


class PublishSecrets:
    """Verifies requests to push.

    Args:
        secrets: one, or several while one is being replaced. For signatures a secret has the form of the specification:
            base64, with or without `whsec_` before it, or the key itself as bytes.

    Raises:
        UsageError: a secret is empty, or neither str nor bytes. The message does not show it.
    """

    def __init__(self, secrets: Sequence[str | bytes]) -> None:
        given: Any = secrets
        for number, secret in enumerate(given, 1):
            if not isinstance(secret, str | bytes) or not secret.strip():
                raise UsageError(f"publish secret {number} must be a non-empty str or bytes")
        texts = [secret.encode() if isinstance(secret, str) else secret for secret in secrets]
        self._digests = [sha256(text).digest() for text in texts]
        self._keys = [secret for secret in secrets if _can_sign(secret)]
        self._throttle = Throttle()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._digests)

    def check_address(self, request: Request) -> None:
        """Refuse an address from which wrong secrets came, before its body is read.

        Raises:
            WebError: 429, with the seconds to wait.
        """
        wait = self._throttle.wait(request.client, monotonic())
        if wait:
            after = [(b"retry-after", b"%d" % math.ceil(wait))]
            raise WebError(
                429,
                "too_many_attempts",
                "too many wrong secrets came from this address: wait as Retry-After says",
                after,
            )

    def check_bearer(self, request: Request) -> bool:
        """Return whether the request has a right bearer secret; False if it has to be signed instead.

        Raises:
            WebError: 401, the secret is wrong, or there is neither a secret nor a signature.
        """
        headers = request.headers
        if "webhook-signature" in headers:
            return False
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            message = "use Authorization: Bearer <secret>, or sign the request as Standard Webhooks specifies"
            raise WebError(401, "unauthenticated", message, [_CHALLENGE])
        given = sha256(secret.strip().encode("latin-1")).digest()
        if not any([hmac.compare_digest(given, known) for known in self._digests]):
            raise self._refused(request, "the secret is wrong")
        return True

    def check_signature(self, request: Request, body: bytes) -> str:
        """Return the id of a signed message.

        Raises:
            WebError: 401, no signature fits, or its time is too far from the current one.
        """
        if not self._keys:
            raise self._refused(request, "this server cannot check signatures: none of its publish secrets is base64")
        try:
            return verify(self._keys, request.headers, body, now=time())
        except WebhookVerificationError as error:
            raise self._refused(request, str(error)) from None

    def is_repeated(self, id: str) -> bool:
        """Note a signed message, and return whether it came before."""
        if id in self._seen:
            return True
        self._seen[id] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def forget(self, id: str) -> None:
        """Forget a signed message, which could not be pushed."""
        self._seen.pop(id, None)

    def _refused(self, request: Request, message: str) -> WebError:
        self._throttle.failed(request.client, monotonic())
        return WebError(401, "unauthenticated", message, [_CHALLENGE])


def _can_sign(secret: str | bytes) -> bool:
    try:
        sign(secret, "", 0, b"")
    except UsageError:
        return False
    return True
