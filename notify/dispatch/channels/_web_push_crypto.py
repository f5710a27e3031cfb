"""Encryption of push messages (RFC 8291) and signatures of the application server (RFC 8292)."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final
from urllib.parse import urlsplit

from notify import UsageError

from ._requests import missing

MAX_PLAINTEXT: Final = 3993
"""Bytes of a message at most: encrypted, they are the 4096 that every push service takes."""

TOKEN_SECONDS: Final = 12 * 3600
"""How long a token is valid. 24 hours are allowed, which clocks that differ turn into a refusal."""

RENEW_SECONDS: Final = 3600
"""A token that is valid for less than this is replaced."""

MAX_TOKENS: Final = 1000
"""How many tokens are kept: there is one for each key and push service, and addresses come from browsers."""

_MAILTO: Final = re.compile(r"mailto:[^\s<>@]+@([^\s<>@]+)", re.ASCII)


def encode(raw: bytes) -> str:
    """Return base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of base64url, with padding or without; the other alphabet is understood too.

    Raises:
        ValueError: it is not base64.
    """
    return urlsafe_b64decode(text.replace("+", "-").replace("/", "_").rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


def encrypt(content: bytes, p256dh: bytes, auth: bytes, *, salt: bytes | None = None, key: Any = None) -> bytes:
    """Encrypt a message for one subscription, as one record of the encoding `aes128gcm`.

    Args:
        content: at most `MAX_PLAINTEXT` bytes.
        p256dh: the public key of the subscription, 65 bytes.
        auth: its secret, 16 bytes.
        salt: 16 bytes; None: random.
        key: the private key of this message; None: a new one.

    Raises:
        ValueError: `p256dh` is not a point of the curve, or `auth` has another length.
    """
    import http_ece  # type: ignore[import-untyped]
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(auth) != 16 or len(p256dh) != 65:
        raise ValueError("the keys of the subscription have a wrong length")
    encrypted: bytes = http_ece.encrypt(
        content,
        salt=salt,
        private_key=key or ec.generate_private_key(ec.SECP256R1()),
        dh=p256dh,
        auth_secret=auth,
        version="aes128gcm",
    )
    return encrypted


def generate_vapid_key() -> str:
    """Return a new private key for `WebPushChannel`: 32 bytes as base64url. Keep it secret, and keep it.

    Browsers bind their subscriptions to its public key: with another key they have to subscribe again.

    Raises:
        UsageError: the extra `webpush` is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise UsageError(missing("generate_vapid_key", "webpush")) from error
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return encode(number.to_bytes(32, "big"))


def check_subject(subject: str) -> None:
    """Raise UsageError unless push services can reach the operator there: some refuse tokens with another subject."""
    found = _MAILTO.fullmatch(subject)
    if found:
        host: str | None = found[1]
    else:
        parts = urlsplit(subject)
        host = parts.hostname if parts.scheme == "https" and not re.search(r"[\s<>]", subject) else None
    if not host or "." not in host.strip(".") or host.endswith((".local", ".localhost", ".invalid")):
        raise UsageError(
            "subject must be 'mailto:' and an address, or an https URL, where push services reach you: "
            "without spaces and angle brackets, and not on localhost"
        )


class VapidSigner:
    """One key of the application server, and its tokens: one for each push service, used until it is old.

    Args:
        private: the private key: base64url of 32 bytes, or PEM.
        subject: where push services reach the operator.

    Raises:
        UsageError: the key is malformed. The message does not show it.
    """

    def __init__(self, private: str, subject: str) -> None:
        import py_vapid  # type: ignore[import-untyped]
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        try:
            text = private.strip()
            if text.startswith("-----"):
                self._key = py_vapid.Vapid02.from_pem(text.encode())
            else:
                self._key = py_vapid.Vapid02.from_string(text)
            public = self._key.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        except Exception:
            raise UsageError("the VAPID key must be base64url of 32 bytes, or PEM: see generate_vapid_key()") from None
        self._subject = subject
        self._tokens: dict[str, tuple[str, float]] = {}
        self.public_key = encode(public)

    def authorization(self, audience: str, now: float) -> str:
        """Return the header `Authorization` for a push service.

        Args:
            audience: the origin of the subscription's address.
            now: seconds since 1970.
        """
        header, expires = self._tokens.get(audience, ("", 0.0))
        if not now + RENEW_SECONDS < expires <= now + TOKEN_SECONDS:
            expires = int(now) + TOKEN_SECONDS
            claims = {"aud": audience, "exp": int(expires), "sub": self._subject}
            header = self._key.sign(claims)["Authorization"]
            self._tokens.pop(audience, None)
            while len(self._tokens) >= MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[audience] = header, expires
        return header

    def __repr__(self) -> str:
        return f"<VapidSigner {self.public_key}>"
