"""Signed tokens for `notify serve`: JSON Web Tokens with one algorithm, which any JWT library can make.

The header of a token never chooses how it is checked: only HMAC with SHA-256 is accepted. Every token must name its
user (`sub`), its end (`exp`) and this server (`aud`), so that a token that the same secret signed for something else
does not open a stream.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ..errors import UsageError

AUDIENCE: Final = "notify"
"""What `aud` has to be, or to contain."""

MIN_SECRET: Final = 32
"""Bytes of a secret: as many as the signature has."""

LEEWAY: Final = 5.0
"""Seconds by which the clocks of two hosts may differ, for `nbf`."""

_HEADER: Final = {"alg": "HS256", "typ": "JWT"}
_MAX_LENGTH: Final = 8_192


class TokenClaim(NamedTuple):
    """What a token says.

    Attributes:
        user: whose events its bearer may read.
        expires_at: until when.
    """

    user: str
    expires_at: datetime


def check_secret(secret: str, name: str) -> bytes:
    """Return a secret as bytes.

    Raises:
        UsageError: it is too short to withstand guessing.
    """
    raw = secret.encode()
    if len(raw) < MIN_SECRET:
        raise UsageError(
            f"{name} has {len(raw)} bytes and needs at least {MIN_SECRET}; make one with:"
            " python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return raw


def sign(user: str, expires_at: float, secret: bytes) -> str:
    """Return a token for a user that is valid until a time, in seconds since the epoch."""
    claims = {"sub": user, "aud": AUDIENCE, "exp": int(expires_at)}
    text = f"{_encode(_HEADER)}.{_encode(claims)}"
    return f"{text}.{_base64(_signature(text, secret))}"


def verify(token: str, secret: bytes, now: float) -> TokenClaim | None:
    """Return what a token says; None unless its signature, its audience and its times are right."""
    if len(token) > _MAX_LENGTH or token.count(".") != 2 or not token.isascii():
        return None
    text, _, given = token.rpartition(".")
    if not hmac.compare_digest(_base64(_signature(text, secret)), given):
        return None
    header, claims = (_decode(part) for part in text.split("."))
    if header.get("alg") != "HS256" or "crit" in header:
        return None
    user, audience = claims.get("sub"), claims.get("aud")
    if (
        not isinstance(user, str)
        or not user
        or AUDIENCE not in (audience if isinstance(audience, list) else [audience])
    ):
        return None
    expires, begins = _time(claims.get("exp")), _time(claims.get("nbf", 0))
    if expires is None or begins is None or not begins - LEEWAY <= now < expires:
        return None
    return TokenClaim(user, datetime.fromtimestamp(expires, UTC))


def _time(value: Any) -> float | None:
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if is_time else None


def _signature(text: str, secret: bytes) -> bytes:
    return hmac.digest(secret, text.encode(), "sha256")


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _encode(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _decode(part: str) -> Mapping[str, Any]:
    """Return the object in a part of a token whose signature is right; empty if there is none."""
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
