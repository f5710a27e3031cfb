"""Web push: the vectors of the standards, a strict push service of our own, and another project's."""

from __future__ import annotations

import json
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from notify import UsageError
from notify.dispatch._channel import Action, Content
from notify.dispatch._outcomes import (
    Accepted,
    Ambiguous,
    EndpointGone,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from notify.dispatch.channels import WebPushChannel, generate_vapid_key
from notify.dispatch.channels import _web_push_crypto as crypto
from notify.http import HttpPool
from notify.testing import _push_check as check
from notify.testing._push_service import PushReply, PushService
from tests.dispatch.jobs import endpoint, job, when_sent
from tests.web.node import install
from tests.web.servers import free_port

pytestmark = pytest.mark.anyio

SUBJECT = "mailto:ops@example.com"
KEY, OTHER = generate_vapid_key(), generate_vapid_key()


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_of(text: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(raw(text), "big"), ec.SECP256R1())


@pytest.fixture(scope="module")
def running() -> Iterator[PushService]:
    with PushService().running() as service:
        yield service


@pytest.fixture
def service(running: PushService) -> PushService:
    running.refusals.clear()
    running.requests = 0
    return running


def channel(*keys: str, **options: Any) -> WebPushChannel:
    return WebPushChannel(keys or KEY, subject=SUBJECT, allow_private=True, **options)


# -- vectors ---------------------------------------------------------------------------------------------------------

WATERMELON = b"When I grow up, I want to be a watermelon"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
UA_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
UA_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl"
    "7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def test_the_vector_of_rfc_8291() -> None:
    """Byte for byte what section 5 says, with its keys and salt; the push service decrypts it."""
    body = crypto.encrypt(
        WATERMELON,
        raw(UA_PUBLIC),
        raw(AUTH),
        salt=raw("DGv6ra1nlYgDCS1FRnbzlw"),
        key=key_of("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
    )
    assert len(body) == 144
    assert body == raw(BODY)
    keys = check.SubscriptionKeys(key_of(UA_PRIVATE), raw(AUTH))
    assert keys.public == raw(UA_PUBLIC)
    assert check.decrypt(body, keys) == WATERMELON


def test_the_steps_of_rfc_8291() -> None:
    """Appendix A: the content encryption key and the nonce."""
    private, body = key_of(UA_PRIVATE), raw(BODY)
    sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), body[21:86])
    shared = private.exchange(ec.ECDH(), sender)
    secret = check.derive(raw(AUTH), shared, b"WebPush: info\0" + raw(UA_PUBLIC) + body[21:86], 32)
    key, nonce = check.content_keys(body[:16], secret)
    assert (check.unpadded(key), check.unpadded(nonce)) == ("oIhVW04MRdy2XN9CiKLxTg", "4h_95klXJ5E_qnoN")


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (
            "yqdlZ-tYemfogSmv7Ws5PQ",
            "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg",
        ),
        (
            "BO3ZVPxUlnLORbVGMpbT1Q",
            "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA",
        ),
    ],
)
def test_the_vectors_of_rfc_8188(key: str, body: str) -> None:
    """Sections 3.1 and 3.2, one record and several: the library that we use reads them."""
    assert http_ece.decrypt(raw(body), key=raw(key)) == b"I am the walrus"


def test_the_vector_of_rfc_8292() -> None:
    """The token of section 2.4 is accepted by the push service, for its audience and until it ends, and not else."""
    header = (
        "vapid t=eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3N"
        "jgsInN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmy"
        "sazNjjvW2L9OkSSHzvoD1oA, k=BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmC"
        "lBPs"
    )
    assert check.check_vapid(header, "https://push.example.net", 1453523768 - 60).startswith("BA1Hxzyi")
    for audience, now in (("https://push.example.com", 1453523000), ("https://push.example.net", 1453523768)):
        with pytest.raises(check.PushRefusedError):
            check.check_vapid(header, audience, now)


def test_the_size_of_rfc_8291() -> None:
    """3993 bytes are 4096 when they are encrypted."""
    assert len(crypto.encrypt(b"x" * crypto.MAX_PLAINTEXT, raw(UA_PUBLIC), raw(AUTH))) == 4096


# -- what is sent ----------------------------------------------------------------------------------------------------


async def test_a_message_arrives(service: PushService) -> None:
    """The service verifies, decrypts and keeps it: title, body, link, data, and what identifies it."""
    content = Content("Hi", "there", url="https://example.com/1", actions=(Action("open", "Open"),), data={"more": 1})
    async with channel() as sender:
        browser = service.subscribe(vapid=sender.public_key)
        found = await sender.send(job(browser.endpoint("alice"), content=content, expires_at=None))
    assert (found, service.refusals) == (Accepted(), [])
    (message,) = browser.messages
    assert json.loads(message.content) == {
        "title": "Hi",
        "body": "there",
        "url": "https://example.com/1",
        "tag": "0123456789abcdef0123456789abcdef",
        "actions": [{"action": "open", "title": "Open", "url": ""}],
        "data": {"post": 7, "more": 1},
        "type": "comment.created",
        "id": "0123456789abcdef0123456789abcdef",
        "notification": "n1",
    }
    assert (message.ttl, message.urgency, message.topic) == (2_419_200, "normal", "0123456789abcdef0123456789abcdef")
    assert message.vapid == sender.public_key


async def test_a_repeated_message_replaces_the_first(service: PushService) -> None:
    """While it waits for the browser; and so does one with the same collapse key, also if that is no Topic."""
    async with channel() as sender:
        browser = service.subscribe()
        for _ in range(2):
            await sender.send(job(browser.endpoint("alice")))
        assert (len(browser.received), len(browser.messages)) == (2, 1)
        for number in range(2):
            await sender.send(job(browser.endpoint("alice"), id=f"{number:032}", collapse="posts of today: 7/8 äöü"))
        assert (len(browser.received), len(browser.messages)) == (4, 2)
    assert service.refusals == []


@pytest.mark.parametrize(
    ("fields", "ttl", "urgency"),
    [
        ({"priority": "low"}, 2_419_200, "low"),
        ({"priority": "critical", "expires_at": job().now + timedelta(seconds=90)}, 90, "high"),
        ({"priority": "high", "expires_at": job().now - timedelta(seconds=90)}, 0, "high"),
        ({"expires_at": job().now + timedelta(days=90)}, 2_419_200, "normal"),
        ({"priority": "high", "is_digest": True}, 2_419_200, "very-low"),
    ],
)
async def test_ttl_and_urgency(service: PushService, fields: dict[str, Any], ttl: int, urgency: str) -> None:
    """From the time that is left and the priority of the type; a digest is never urgent."""
    async with channel() as sender:
        browser = service.subscribe()
        await sender.send(job(browser.endpoint("alice"), **fields))
    assert [(each.ttl, each.urgency) for each in browser.messages] == [(ttl, urgency)]


async def test_a_large_message(service: PushService) -> None:
    """It is refused before it is encrypted; or sent without its data and with a shorter body, as long as it may be."""
    large = Content("Title", "ä" * 5000, url="https://example.com/1")
    browser = service.subscribe()
    async with channel() as sender:
        found = await sender.send(job(browser.endpoint("alice"), content=large))
        assert isinstance(found, Rejected)
        assert (found.code, found.is_unclear, service.requests) == ("too_large", False, 0)
    async with channel(oversize="shorten") as sender:
        assert await sender.send(job(browser.endpoint("alice"), content=large)) == Accepted()
        huge = Content("T" * 5000)
        assert isinstance(await sender.send(job(browser.endpoint("alice"), content=huge)), Rejected)
    sent = json.loads(browser.messages[0].content)
    assert sent["short"] is True
    assert sent["url"] == "https://example.com/1"
    assert "data" not in sent
    assert 3900 < len(browser.messages[0].content) <= 3993


async def test_the_key_of_a_subscription_is_used(service: PushService) -> None:
    """While a key is being replaced, old subscriptions get the old one, new ones the new one."""
    async with channel(KEY, OTHER) as sender, channel(OTHER) as old:
        for key in (sender.public_key, old.public_key):
            browser = service.subscribe(vapid=key)
            assert await sender.send(job(browser.endpoint("alice"))) == Accepted()
            assert browser.messages[0].vapid == key


async def test_an_unknown_key_sends_nothing(service: PushService) -> None:
    """A subscription made with another key is refused here, and retired only after many refusals: a wrong key in the
    settings must not erase subscriptions. If its key is not known, the service says so."""
    async with channel() as sender, channel(OTHER) as other:
        browser = service.subscribe(vapid=other.public_key)
        assert (await sender.send(job(browser.endpoint("alice"))), service.requests) == (
            Rejected("vapid", is_unclear=True, error="the subscription was made with another VAPID key"),
            0,
        )
        unknown = replace(browser.endpoint("alice"), meta={**browser.endpoint("alice").meta, "vapid": ""})
        assert (await sender.send(job(unknown)), service.requests) == (
            Rejected("vapid", is_unclear=True, error="the subscription was made with another VAPID key"),
            1,
        )


async def test_tokens_are_used_again(service: PushService) -> None:
    """One for each push service, for hours, and valid for at most twelve."""
    now = [1_800_000_000.0]
    signer = crypto.VapidSigner(KEY, SUBJECT)
    first = signer.authorization("https://a.example", now[0])
    assert signer.authorization("https://a.example", now[0] + 10.9 * 3600) == first
    assert signer.authorization("https://b.example", now[0]) != first
    renewed = signer.authorization("https://a.example", now[0] + 11.1 * 3600)
    assert renewed != first
    assert signer.authorization("https://a.example", now[0]) != renewed, "a clock that was set back"
    claims = json.loads(raw(first.split(".")[1]))
    assert claims == {"aud": "https://a.example", "exp": 1_800_043_200, "sub": SUBJECT}
    for number in range(2 * crypto.MAX_TOKENS):
        signer._tokens[f"https://{number}.example"] = ("", 0.0)
    signer.authorization("https://c.example", now[0])
    assert len(signer._tokens) == crypto.MAX_TOKENS


# -- what answers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (PushReply(200), Accepted()),
        (PushReply(202), Accepted()),
        (PushReply(404), EndpointGone("404")),
        (PushReply(410), EndpointGone("410")),
        (PushReply(400), Rejected("400", is_unclear=True)),
        (PushReply(301, {"Location": "https://example.com/"}), Rejected("301", is_unclear=True)),
        (PushReply(413), Rejected("413", error="the push service takes only smaller messages")),
        (PushReply(429, {"Retry-After": "30"}), Throttled(30.0, "ORIGIN")),
        (PushReply(429), Throttled(None, "ORIGIN")),
        (PushReply(500), Transient("500")),
        (PushReply(503, {"Retry-After": "7"}), Transient("503", 7.0)),
        (PushReply(408), Transient("408")),
        (PushReply(401), Misconfigured("ORIGIN answered 401: it does not accept the VAPID key or subject=")),
        (PushReply(403), Misconfigured("ORIGIN answered 403: it does not accept the VAPID key or subject=")),
    ],
)
async def test_each_answer_has_its_outcome(service: PushService, reply: PushReply, expected: Outcome) -> None:
    """The table of DISPATCH 6.5: only 404 and 410 retire an endpoint, and 429 is about the whole service."""
    service.answer(reply)
    async with channel() as sender:
        found = await sender.send(job(service.subscribe().endpoint("alice")))
    assert repr(found).replace(service.url, "ORIGIN") == repr(expected)


async def test_an_expired_subscription(service: PushService) -> None:
    """The service answers 404 or 410, and the endpoint is gone."""
    async with channel() as sender:
        for status in (404, 410):
            browser = service.subscribe()
            browser.gone = status
            assert await sender.send(job(browser.endpoint("alice"))) == EndpointGone(str(status))


async def test_no_answer_is_ambiguous(service: PushService) -> None:
    """A service that takes the message and says nothing."""

    async def attempt(timeout: float) -> Outcome:
        service.answer(0)
        async with channel(timeout=timeout) as sender:
            return await sender.send(job(service.subscribe().endpoint("alice")))

    assert await when_sent(attempt) == Ambiguous("there was no answer in time")


async def test_no_connection_is_transient() -> None:
    """Where nothing listens, nothing was sent."""
    with PushService().running() as service:
        browser = service.subscribe()
    async with channel() as sender:
        assert await sender.send(job(browser.endpoint("alice"))) == Transient("connect", error="the connection failed")


@pytest.mark.parametrize(
    ("address", "meta", "code"),
    [
        ("http://push.example.net/1", {}, "address"),
        ("https://127.0.0.1:9/secret", {}, "address"),
        ("https://[::1/secret", {}, "subscription"),
        ("https://push.example.net/1", {"p256dh": ""}, "subscription"),
        ("https://push.example.net/1", {"p256dh": UA_PUBLIC[:-8] + "AAAAAAAA"}, "subscription"),
        ("https://push.example.net/1", {"auth": "???"}, "subscription"),
        ("ftp://push.example.net/1", {}, "address"),
    ],
)
async def test_a_bad_subscription(address: str, meta: dict[str, str], code: str) -> None:
    """What a browser, or an attacker, registered is refused before anything is sent, and never shown."""
    async with WebPushChannel(KEY, subject=SUBJECT) as sender:
        found = await sender.send(job(endpoint(address, **{"p256dh": UA_PUBLIC, "auth": AUTH, **meta})))
    assert isinstance(found, Rejected)
    assert (found.code, found.is_unclear) == (code, True)
    assert "secret" not in repr(found)


async def test_without_a_key_it_is_misconfigured() -> None:
    """A channel without settings says so, and the others go on."""
    async with WebPushChannel(None, subject=SUBJECT) as sender:
        found = await sender.send(job(endpoint("https://push.example.net/1")))
        assert isinstance(found, Misconfigured)
        with pytest.raises(UsageError, match="not configured"):
            _ = sender.public_key


@pytest.mark.parametrize("subject", ["", "ops@example.com", "mailto:a@localhost", "mailto:<a@b.com>", "https://x"])
def test_a_subject_that_push_services_refuse(subject: str) -> None:
    """It is found when the channel is made, not when the first message is refused."""
    with pytest.raises(UsageError, match="subject"):
        WebPushChannel(KEY, subject=subject)


@pytest.mark.parametrize("key", ["", "hush", "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----"])
def test_a_malformed_key_is_not_shown(key: str) -> None:
    """The error says what is expected."""
    with pytest.raises(UsageError, match="generate_vapid_key") as caught:
        WebPushChannel([key], subject=SUBJECT)
    assert "hush" not in str(caught.value)


def test_a_key_in_pem() -> None:
    """As other tools write it."""
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    pem = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(raw(WebPushChannel(pem, subject=SUBJECT).public_key)) == 65


def test_a_key_is_not_shown() -> None:
    """A signer in a log line or a traceback has its public key only."""
    signer = crypto.VapidSigner(KEY, SUBJECT)
    assert repr(signer) == f"<VapidSigner {signer.public_key}>"


async def test_many_at_once(service: PushService) -> None:
    """Each message arrives at its browser."""
    browsers = [service.subscribe() for _ in range(20)]
    async with channel() as sender, anyio.create_task_group() as tasks:
        for number, browser in enumerate(browsers):
            tasks.start_soon(sender.send, job(browser.endpoint("alice"), id=f"{number:032}"))
    assert [json.loads(browser.messages[0].content)["id"] for browser in browsers] == [
        f"{number:032}" for number in range(20)
    ]


# -- another project's push service ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """web-push-testing of npm, and its URL."""
    script = install(Path(__file__).parent / "npm") / "node_modules/web-push-testing/src/bin/server.js"
    port = free_port()
    with subprocess.Popen(
        ["node", script, str(port)], cwd=tmp_path_factory.mktemp("push"), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert "running" in server.stdout.readline()
            yield f"http://localhost:{port}"
        finally:
            server.kill()


async def ask(url: str, **fields: Any) -> Any:
    """Post JSON to the other service, as its browser would."""
    async with HttpPool(allow_private=True) as pool:
        headers = {"Content-Type": "application/json"}
        answer = await pool.request("POST", url, headers=headers, content=json.dumps(fields).encode(), timeout=30)
    return json.loads(answer.body).get("data") if answer.body.startswith(b"{") else None


@pytest.mark.slow
async def test_another_service_decrypts_it(other_service: str) -> None:
    """An implementation that shares no code with ours verifies the signature and decrypts the message."""
    async with channel() as sender, channel(OTHER) as stranger:
        key = sender.public_key
        made = await ask(f"{other_service}/subscribe", userVisibleOnly="true", applicationServerKey=key)
        keys = {name: crypto.encode(crypto.decode(text)) for name, text in made["keys"].items()}
        browser = endpoint(made["endpoint"], **keys)
        assert await sender.send(job(browser)) == Accepted()
        (text,) = (await ask(f"{other_service}/get-notifications", clientHash=made["clientHash"]))["messages"]
        assert json.loads(text)["title"] == "A comment"
        assert isinstance(await stranger.send(job(browser)), Rejected)
        await ask(f"{other_service}/expire-subscription/{made['clientHash']}")
        assert await sender.send(job(browser)) == EndpointGone("410")
