"""What a push service demands of a request: RFC 8030, 8188, 8291 and 8292, written without the libraries that send."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAX_BODY = 4096
DAY = 86_400


class PushRefusedError(Exception):
    """The request is not allowed.

    Attributes:
        status: the answer.
        reason: what is wrong.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class SubscriptionKeys:
    """The keys of a subscription as a browser makes them."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    auth: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """The public key, 65 bytes."""
        return point(self.private.public_key())


def unpadded(raw: bytes) -> str:
    """Return base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def strict(text: str) -> bytes:
    """Return the bytes of base64url without padding.

    Raises:
        ValueError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text, re.ASCII):
        raise ValueError("not base64url without padding")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as an uncompressed point."""
    numbers = key.public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def check_headers(headers: Mapping[str, str], body: bytes) -> None:
    """Check what RFC 8030 says of TTL, Urgency, Topic and the size.

    Raises:
        PushRefusedError: it is not so.
    """
    if not re.fullmatch(r"[0-9]{1,10}", headers.get("ttl", ""), re.ASCII):
        raise PushRefusedError(400, "TTL is required: a number of seconds")
    if headers.get("urgency", "normal") not in {"very-low", "low", "normal", "high"}:
        raise PushRefusedError(400, "Urgency is unknown")
    if "topic" in headers and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", headers["topic"], re.ASCII):
        raise PushRefusedError(400, "Topic must be 1 to 32 characters of base64url")
    if len(body) > MAX_BODY:
        raise PushRefusedError(413, f"{len(body)} bytes")
    if body and headers.get("content-encoding") != "aes128gcm":
        raise PushRefusedError(415, "Content-Encoding must be aes128gcm")


def check_vapid(authorization: str, audience: str, now: float) -> str:
    """Check the signature of the application server (RFC 8292), and return its public key.

    Args:
        authorization: the header.
        audience: the origin of this service.
        now: seconds since 1970.

    Raises:
        PushRefusedError: it is missing, malformed, expired, valid for too long, or for another service.
    """
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "vapid":
        raise PushRefusedError(401, "Authorization must be vapid")
    parameters = dict(each.strip().partition("=")[::2] for each in rest.split(","))
    try:
        head, claims, signature = parameters["t"].split(".")
        key = strict(parameters["k"])
        header, body, signed = (json.loads(strict(head)), json.loads(strict(claims)), strict(signature))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        halves = encode_dss_signature(int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:], "big"))
        public.verify(halves, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    except (KeyError, ValueError, InvalidSignature):
        raise PushRefusedError(403, "the token or its signature is not valid") from None
    if len(signed) != 64 or len(key) != 65:
        raise PushRefusedError(403, "the signature or the key has a wrong length")
    _check_claims(header, body, audience, now)
    return parameters["k"]


def _check_claims(header: Any, claims: Any, audience: str, now: float) -> None:
    if header.get("typ") != "JWT" or header.get("alg") != "ES256":
        raise PushRefusedError(403, "the token must be a JWT with ES256")
    if claims.get("aud") != audience:
        raise PushRefusedError(403, f"aud must be {audience}")
    expires = claims.get("exp")
    if not isinstance(expires, int) or not now < expires <= now + DAY:
        raise PushRefusedError(403, "exp must be in the future, and at most 24 hours away")
    subject = claims.get("sub", "")
    host = subject.rpartition("@")[2] if subject.startswith("mailto:") else urlsplit(subject).hostname
    if not re.match(r"mailto:\S+@|https://", subject) or not host or "." not in host or re.search(r"[\s<>]", subject):
        raise PushRefusedError(403, "sub must be a mailto or https URL")


def decrypt(body: bytes, keys: SubscriptionKeys) -> bytes:
    """Decrypt a message by RFC 8291: one record of RFC 8188.

    Raises:
        PushRefusedError: it is malformed, or meant for another subscription.
    """
    salt, size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20] if len(body) > 20 else 0
    sender, record = body[21 : 21 + length], body[21 + length :]
    if length != 65 or not 18 <= len(record) <= size:
        raise PushRefusedError(400, "the body must be one record whose key id is a public key")
    try:
        shared = keys.private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
        secret = derive(keys.auth, shared, b"WebPush: info\0" + keys.public + sender, 32)
        key, nonce = content_keys(salt, secret)
        padded = AESGCM(key).decrypt(nonce, record, None).rstrip(b"\0")
    except (ValueError, InvalidTag):
        raise PushRefusedError(400, "the body cannot be decrypted") from None
    if not padded.endswith(b"\2"):
        raise PushRefusedError(400, "the delimiter of the last record is wrong")
    return padded[:-1]


def content_keys(salt: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Return the content encryption key and the nonce of the first record, by RFC 8188."""
    return (
        derive(salt, secret, b"Content-Encoding: aes128gcm\0", 16),
        derive(salt, secret, b"Content-Encoding: nonce\0", 12),
    )


def derive(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """Return key material (HKDF with SHA-256)."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
