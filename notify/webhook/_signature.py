"""Pure: signatures by the Standard Webhooks specification, version `v1` (HMAC-SHA256).

What is signed is `<id>.<timestamp>.<body>`: the id, so that a receiver can recognise a repetition; the time in seconds
since 1970, so that it can refuse a message that was recorded long ago; and the exact bytes of the body. A header may
hold several signatures, separated by spaces: while a secret is being replaced, one for each secret.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from notify.errors import NotifyError, UsageError

Secret: TypeAlias = str | bytes
"""`whsec_` and base64, or base64 alone; bytes are the key itself."""

PREFIX: Final = "whsec_"

TOLERANCE: Final = 300.0

_VERSION: Final = "v1,"
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)  # 12 digits reach into the year 33658, and never overflow


class WebhookVerificationError(NotifyError):
    """The message is not signed with one of the secrets, or its timestamp is too far from the current time."""


def keys_of(secrets: Secret | Iterable[Secret]) -> tuple[bytes, ...]:
    """Return the keys of one secret or several.

    Raises:
        UsageError: there is none, or one is empty or not base64. The message does not show it.
    """
    given = [secrets] if isinstance(secrets, str | bytes) or not isinstance(secrets, Iterable) else [*secrets]
    if not given:
        raise UsageError("a webhook needs at least one secret")
    return tuple(_key(secret, number) for number, secret in enumerate(given, 1))


def _key(secret: Secret, number: int) -> bytes:
    if not isinstance(secret, str | bytes):
        raise UsageError(f"webhook secret {number} must be str or bytes, not {type(secret).__name__}")
    if isinstance(secret, str):
        text = secret.removeprefix(PREFIX)
        try:
            secret = b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise UsageError(f"webhook secret {number} must be base64, with or without {PREFIX!r} before it") from None
    if not secret:
        raise UsageError(f"webhook secret {number} is empty")
    return secret


def sign(secrets: Secret | Iterable[Secret], id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature` of a message: one signature for each secret.

    Args:
        secrets: one secret, or several while one is being replaced.
        id: identifies the message, the same at every attempt.
        timestamp: seconds since 1970 of this attempt.
        body: exactly what is sent.

    Raises:
        UsageError: a secret is unacceptable.
    """
    return " ".join(signed(key, id, str(timestamp), body) for key in keys_of(secrets))


def signed(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    """Return one signature with its version."""
    digest = hmac.digest(key, b"%b.%b.%b" % (id.encode(), timestamp.encode(), body), sha256)
    return _VERSION + b64encode(digest).decode()


def verify(
    secrets: Secret | Iterable[Secret],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> str:
    """Verify a message, and return its id.

    Args:
        secrets: one secret, or several while one is being replaced: a signature of any of them is accepted.
        headers: those of the request; the case of their names does not matter.
        body: exactly what was received.
        now: the current time in seconds since 1970.
        tolerance: seconds by which the timestamp may differ from `now`; 0 accepts any time.

    Raises:
        WebhookVerificationError: a header is missing or malformed, the time is too far away, or no signature fits.
        UsageError: a secret is unacceptable.
    """
    return verified(keys_of(secrets), {name.lower(): text for name, text in headers.items()}, body, now, tolerance)


def verified(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: float, tolerance: float) -> str:
    """Do what `verify` does, given decoded keys, and headers whose names are in lower case."""
    try:
        id_, timestamp, signatures = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise WebhookVerificationError(f"the header {error} is missing") from None
    if not id_:
        raise WebhookVerificationError("the header 'webhook-id' is empty")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise WebhookVerificationError("the header 'webhook-timestamp' is not a number of seconds")
    if tolerance and abs(now - int(timestamp)) > tolerance:
        raise WebhookVerificationError(f"the message is over {tolerance:g} s too old or too early: compare the clocks")
    given = [text.encode() for text in signatures.split(" ")]
    for key in keys:
        expected = signed(key, id_, timestamp, body).encode()
        if any([hmac.compare_digest(expected, each) for each in given]):
            return id_
    raise WebhookVerificationError("no signature fits: compare the secret, and pass the exact bytes of the body")
