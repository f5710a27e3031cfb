"""`PushService` refuses every request that the Web Push standards forbid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from notify.dispatch.channels import _web_push_crypto as crypto
from notify.testing import _push_check as check
from notify.testing._push_service import PushService
from tests.dispatch.test_channel_web_push import BODY, KEY, SUBJECT, key_of, raw

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"TTL": ""}, 400),
        ({"TTL": "-1"}, 400),
        ({"Urgency": "urgent"}, 400),
        ({"Topic": "x" * 33}, 400),
        ({"Topic": "a b"}, 400),
        ({"Content-Encoding": "aesgcm"}, 415),
        ({"Authorization": ""}, 401),
        ({"Authorization": "WebPush x"}, 401),
        ({"Authorization": "vapid t=a.b.c, k=d"}, 403),
        ({"body": b"x" * 4097}, 413),
        ({"body": b"x" * 200}, 400),
        ({"body": raw(BODY)}, 400),
        ({"exp": 1_800_000_000 + 86_401}, 403),
        ({"exp": 1_800_000_000 - 1}, 403),
        ({"aud": "https://push.example.net"}, 403),
    ],
)
async def test_the_push_service_refuses(changes: dict[str, Any], status: int) -> None:
    """Each violation of RFC 8030, 8188, 8291 and 8292 has its answer."""
    service = PushService(clock=lambda: 1_800_000_000.0)
    signer = crypto.VapidSigner(KEY, SUBJECT)
    browser = service.subscribe(vapid=signer.public_key)
    claims = {name: changes[name] for name in ("exp", "aud") if name in changes}
    sent = {
        "Host": "127.0.0.1",
        "TTL": "0",
        "Content-Encoding": "aes128gcm",
        "Authorization": signer.authorization("http://127.0.0.1", 1_800_000_000.0),
        **{name: text for name, text in changes.items() if name not in {"body", "exp", "aud"}},
    }
    if claims:
        signer._key.conf = {"no-strict": True}
        full = {"aud": "http://127.0.0.1", "exp": 1_800_003_600, "sub": SUBJECT, **claims}
        sent["Authorization"] = signer._key.sign(full)["Authorization"]
    body = changes.get("body", crypto.encrypt(b"hello", browser.keys.public, browser.keys.auth))
    assert await asked(service, browser.url, sent, body) == status
    assert (len(browser.received), len(service.refusals)) == (0, 1)


def by_hand(claims: dict[str, Any], header: dict[str, str], *, is_short: bool = False, zeros: bytes = b"") -> str:
    """Sign a token that no library would: any header, any subject, a key or a signature of another length."""
    private = key_of(KEY)
    text = ".".join(check.unpadded(json.dumps(each).encode()) for each in (header, claims))
    r, s = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    signature = check.unpadded(r.to_bytes(32, "big") + zeros + s.to_bytes(32, "big"))
    form = PublicFormat.CompressedPoint if is_short else PublicFormat.UncompressedPoint
    return f"vapid t={text}.{signature}, k={check.unpadded(private.public_key().public_bytes(Encoding.X962, form))}"


JWT = {"typ": "JWT", "alg": "ES256"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 201),
        ({"header": {"typ": "JWT", "alg": "ES384"}}, 403),
        ({"header": {"alg": "ES256"}}, 403),
        ({"sub": "mailto:ops@localhost"}, 403),
        ({"sub": "mailto:<ops@example.com>"}, 403),
        ({"sub": "ops@example.com"}, 403),
        ({"is_short": True}, 403),
        ({"zeros": b"\0"}, 403),
        ({"padding": "="}, 403),
    ],
)
async def test_the_push_service_checks_tokens(changes: dict[str, Any], status: int) -> None:
    """A valid signature is not enough: header, subject, and the forms of key and signature are as RFC 8292 says."""
    service = PushService(clock=lambda: 1_800_000_000.0)
    browser = service.subscribe(vapid=crypto.VapidSigner(KEY, SUBJECT).public_key)
    claims = {"aud": "http://127.0.0.1", "exp": 1_800_003_600, "sub": changes.get("sub", SUBJECT)}
    forms = {name: changes[name] for name in ("is_short", "zeros") if name in changes}
    token = by_hand(claims, changes.get("header", JWT), **forms) + changes.get("padding", "")
    sent = {"Host": "127.0.0.1", "TTL": "0", "Authorization": token}
    assert await asked(service, browser.url, sent, b"") == status
    assert (len(browser.received), len(service.refusals)) == ((1, 0) if status == 201 else (0, 1))


@pytest.mark.parametrize(("delimiter", "status"), [(b"\2", 201), (b"\1", 400), (b"", 400)])
async def test_the_push_service_checks_the_delimiter(delimiter: bytes, status: int) -> None:
    """RFC 8188: the only record is the last one, so it ends with 2; with 1, a further record was lost on the way."""
    service = PushService()
    browser = service.subscribe()
    sender, salt = ec.generate_private_key(ec.SECP256R1()), b"salt" * 4
    public = check.point(sender.public_key())
    shared = sender.exchange(ec.ECDH(), browser.keys.private.public_key())
    secret = check.derive(browser.keys.auth, shared, b"WebPush: info\0" + browser.keys.public + public, 32)
    key, nonce = check.content_keys(salt, secret)
    record = AESGCM(key).encrypt(nonce, b"hello" + delimiter, None)
    body = salt + (4096).to_bytes(4, "big") + bytes([65]) + public + record
    assert await asked(service, browser.url, {"TTL": "0", "Content-Encoding": "aes128gcm"}, body) == status
    assert [each.content for each in browser.messages] == ([b"hello"] if status == 201 else [])


async def test_the_push_service_knows_its_subscriptions() -> None:
    """Another address is unknown, and messages are posted; both are refused without looking at the message."""
    service = PushService()
    browser = service.subscribe()
    assert await asked(service, browser.url + "x", {"TTL": "0"}, b"") == 404
    assert await asked(service, browser.url, {"TTL": "0"}, b"", method="GET") == 405
    assert browser.received == []
    assert service.refusals == ["404: there is no such subscription", "405: messages are posted"]


async def test_the_push_service_in_a_server_of_ones_own() -> None:
    """A body may come in parts; and what is not HTTP, such as the server's lifespan, is left alone."""
    service = PushService()
    browser = service.subscribe()
    body = crypto.encrypt(b"hello", browser.keys.public, browser.keys.auth)
    sent = {"TTL": "0", "Content-Encoding": "aes128gcm"}
    assert await asked(service, browser.url, sent, body[:50], body[50:]) == 201
    assert [each.content for each in browser.messages] == [b"hello"]

    async def unwanted(*_: object) -> Any:
        raise AssertionError("nothing is to be received or sent")

    await service({"type": "lifespan"}, unwanted, unwanted)
    assert service.requests == 1


async def asked(service: PushService, url: str, headers: dict[str, str], *body: bytes, method: str = "POST") -> int:
    """Call the application without a server; the body comes in these parts."""
    statuses: list[int] = []
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": url.removeprefix(service.url),
        "headers": [(name.encode(), text.encode()) for name, text in headers.items() if text],
    }
    await service(scope, receive, send)
    return statuses[0]
