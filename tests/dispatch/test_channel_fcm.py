"""FCM: a fake of Google's token and send endpoints, which checks what it gets, and each of its answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import exceptions, jwt

from notify.dispatch._channel import Content, Job
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
from notify.dispatch.abc import Endpoint
from notify.dispatch.channels import FcmChannel
from notify.http import HttpAnswer, HttpError
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.jobs import endpoint, job

pytestmark = pytest.mark.anyio

PHONE = endpoint("token-hush", "token")
SEND = "/v1/projects/demo/messages:send"
TOKEN = Reply(200, {"access_token": "access-hush", "expires_in": 3600, "token_type": "Bearer"})
SENT = Reply(200, {"name": "projects/demo/messages/0:123"})
ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
VIOLATION = "type.googleapis.com/google.rpc.BadRequest"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """A short key: each channel that loads it checks its primes, which takes longer than the rest of a test."""
    return rsa.generate_private_key(65537, 1024)


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with FakeServer().running() as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    running.answer(TOKEN, path="/token")
    running.answer(SENT, path=SEND)
    return running


@pytest.fixture
def account(key: rsa.RSAPrivateKey, server: FakeServer) -> dict[str, str]:
    """A service account whose tokens come from the fake."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return {
        "type": "service_account",
        "project_id": "demo",
        "private_key_id": "k1",
        "private_key": key.private_bytes(encoding, form, serialization.NoEncryption()).decode(),
        "client_email": "sender@demo.iam.gserviceaccount.com",
        "token_uri": f"{server.url}/token",
    }


def channel(server: FakeServer, account: Any, **options: Any) -> FcmChannel:
    return FcmChannel("demo", account, base=server.url, allow_private=True, **options)


def sent(server: FakeServer) -> list[Any]:
    return [request.json["message"] for request in server.requests if request.path == SEND]


def refused(status: int, state: str, *details: Mapping[str, Any], **headers: str) -> Reply:
    error = {"code": status, "message": "about token-hush", "status": state, "details": [*details]}
    return Reply(status, {"error": error}, {name.replace("_", "-"): text for name, text in headers.items()})


def fcm_error(code: str) -> Mapping[str, Any]:
    return {"@type": ERROR, "errorCode": code}


def violation(field: str) -> Mapping[str, Any]:
    return {"@type": VIOLATION, "fieldViolations": [{"field": field, "description": "Invalid"}]}


# -- logging in ------------------------------------------------------------------------------------------------------


async def test_the_request_for_a_token(server: FakeServer, account: dict[str, str], key: rsa.RSAPrivateKey) -> None:
    """A JWT signed with the account's key for the scope of messaging; its audience is Google's, wherever it is sent."""
    async with channel(server, account) as fcm:
        assert await fcm.send(job(PHONE)) == Accepted("0:123")
    asked, posted = server.requests
    fields = parse_qs(asked.body.decode())
    assert fields["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(
        fields["assertion"][0], certs=public, verify=True, audience="https://oauth2.googleapis.com/token"
    )  # type: ignore[no-untyped-call]
    assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
    assert claims["iss"] == account["client_email"]
    assert posted.headers["authorization"] == "Bearer access-hush"


async def test_a_token_is_used_until_shortly_before_its_end(server: FakeServer, account: dict[str, str]) -> None:
    """Many messages at once fetch one; 300 s before its end it is replaced."""
    skew = [0.0]
    async with channel(server, account, wall_clock=lambda: time.time() + skew[0]) as fcm:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(fcm.send, job(PHONE))
        assert [request.path for request in server.requests].count("/token") == 1
        skew[0] = 3240.0
        await fcm.send(job(PHONE))
        assert [request.path for request in server.requests].count("/token") == 1
        skew[0] = 3360.0
        await fcm.send(job(PHONE))
        assert [request.path for request in server.requests].count("/token") == 2


async def test_a_refused_token_is_replaced_once(server: FakeServer, account: dict[str, str]) -> None:
    """401 fetches a new one; a second 401 is a matter of the settings."""
    unauthenticated = refused(401, "UNAUTHENTICATED")
    server.answer(unauthenticated, SENT, path=SEND)
    async with channel(server, account) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Accepted)
        assert [request.path for request in server.requests] == ["/token", SEND, "/token", SEND]
        server.answer(unauthenticated, path=SEND)
        assert isinstance(await fcm.send(job(PHONE)), Misconfigured)
    assert len(server.requests) == 7


async def test_a_refused_token_that_cannot_be_replaced(server: FakeServer, account: dict[str, str]) -> None:
    """The key has been revoked since: what the token's server says is the outcome, and nothing is sent again."""
    async with channel(server, account) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Accepted)
        server.answer(refused(401, "UNAUTHENTICATED"), path=SEND)
        server.answer(Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT."}), path="/token")
        assert isinstance(await fcm.send(job(PHONE)), Misconfigured)
    assert [request.path for request in server.requests] == ["/token", SEND, SEND, "/token"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}), Misconfigured),
        (Reply(how="reset"), Transient),
    ],
)
async def test_no_token(server: FakeServer, account: dict[str, str], reply: Reply, kind: type[Outcome]) -> None:
    """A key that Google refuses is a matter of the settings; a server that is lost is not. Nothing is sent."""
    server.answer(reply, path="/token")
    async with channel(server, account) as fcm:
        found = await fcm.send(job(PHONE))
    assert isinstance(found, kind), found
    assert sent(server) == []


async def test_credentials_in_a_file(server: FakeServer, account: dict[str, str], tmp_path: Path) -> None:
    """The path of the JSON that the console hands out; a file that is not one is a matter of the settings."""
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    async with channel(server, file) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Accepted)
    for text in ("", "{}", "[]", '{"private_key": "hush"}'):
        file.write_text(text)
        async with channel(server, str(file)) as fcm:
            found = await fcm.send(job(PHONE))
        assert isinstance(found, Misconfigured), text
        assert "hush" not in repr(found)
    async with channel(server, tmp_path / "missing.json") as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Misconfigured)


@pytest.mark.parametrize(("project", "credentials"), [(None, {}), ("demo", None), ("", "file")])
async def test_without_settings_it_is_misconfigured(project: str | None, credentials: Any) -> None:
    """A channel without settings says so, and the others go on."""
    async with FcmChannel(project, credentials) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Misconfigured)


async def test_a_token_server_that_hangs(server: FakeServer, account: dict[str, str]) -> None:
    """One message asks it; those that wait share what became of that, and do not wait one after the other."""
    server.answer(Reply(how="hang"), path="/token")
    found: list[Outcome] = []
    async with channel(server, account, timeout=0.5) as fcm:

        async def send() -> None:
            found.append(await fcm.send(job(PHONE)))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(send)
    assert [type(each) for each in found] == [Transient] * 20
    assert len(server.requests) <= 2


async def test_an_abandoned_login_changes_nothing(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that was cancelled leaves its thread behind, which may load the credentials while they are used."""
    is_loading, goes_on, has_loaded = threading.Event(), threading.Event(), threading.Event()

    class Fresh:
        token: str | None = None
        expiry = None
        is_abandoned = False

        def refresh(self, _request: Any) -> None:
            if self.is_abandoned:
                has_loaded.set()
                raise exceptions.TransportError("abandoned")
            self.token = "access-hush"
            goes_on.set()
            assert has_loaded.wait(20)

    def load(_given: Any) -> Fresh:
        loaded = Fresh()
        if not is_loading.is_set():
            loaded.is_abandoned = True
            is_loading.set()
            assert goes_on.wait(20)
        return loaded

    monkeypatch.setattr("notify.dispatch.channels._fcm._load", load)
    async with channel(server, {"any": "thing"}) as fcm:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fcm.send, job(PHONE))
            assert await anyio.to_thread.run_sync(is_loading.wait, 20)
            tasks.cancel_scope.cancel()
        assert isinstance(await fcm.send(job(PHONE)), Accepted)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer access-hush"]


class Login:
    """Credentials of another kind, as google-auth's objects are used."""

    token, expiry = "access-own", None

    def __init__(self, *errors: Exception) -> None:
        self.errors = [*errors]
        self.refreshed = 0

    def refresh(self, _request: Any) -> None:
        self.refreshed += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_credentials_of_another_kind(server: FakeServer) -> None:
    """An object of google-auth is used as it is, and fetched from once if its token does not end; what it raises says
    whether the settings are wrong."""
    login = Login(
        exceptions.RefreshError("busy", retryable=True),  # type: ignore[no-untyped-call]
        exceptions.RefreshError("revoked"),  # type: ignore[no-untyped-call]
        exceptions.DefaultCredentialsError("none"),  # type: ignore[no-untyped-call]
    )
    async with channel(server, login) as fcm:
        found = [await fcm.send(job(PHONE)) for _ in range(5)]
    assert [type(each) for each in found] == [Transient, Misconfigured, Misconfigured, Accepted, Accepted]
    assert login.refreshed == 4
    assert server.requests[-1].headers["authorization"] == "Bearer access-own"
    async with channel(server, object()) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Misconfigured)


# -- what is sent ----------------------------------------------------------------------------------------------------


MESSAGES = json.loads((Path(__file__).parent / "golden" / "firebase_messages.json").read_text(encoding="utf-8"))
"""What the encoder of Google's own library makes of the same messages."""


async def test_a_message(server: FakeServer, account: dict[str, str]) -> None:
    """Text, data as strings, link and metadata, and the blocks of each platform: as Google's library encodes them."""
    given = job(
        PHONE,
        content=Content("Hi", "there", url="https://example.com/7", image="https://example.com/7.png"),
        data={"post": 7, "name": "x", "deep": {"a": None}},
        priority="high",
        expires_at=job().now + timedelta(hours=1),
    )
    async with channel(server, account) as fcm:
        await fcm.send(given)
        await fcm.send(job(endpoint("fid-1", "fid"), content=Content("Hi", tag="t"), priority="low"))
    assert sent(server) == [MESSAGES["alert"], MESSAGES["installation"]]


async def test_a_silent_message(server: FakeServer, account: dict[str, str]) -> None:
    """Without text it wakes the application: no notification, and Apple's priority for the background."""
    async with channel(server, account) as fcm:
        await fcm.send(job(endpoint("news", "topic"), content=Content(), collapse="sync"))
        await fcm.send(job(PHONE, content=Content("Hi", silent=True)))
    silent, soundless = sent(server)
    assert silent == MESSAGES["silent"]
    assert soundless["apns"]["payload"] == {"aps": {}}


@pytest.mark.parametrize("kind", ["", "token", "topic", "fid"])
async def test_kinds_of_endpoint(server: FakeServer, account: dict[str, str], kind: str) -> None:
    """A registration token, a topic, and an installation id."""
    async with channel(server, account, validate_only=True) as fcm:
        assert isinstance(await fcm.send(job(endpoint("x", kind))), Accepted)
        assert isinstance(await fcm.send(job(endpoint("x", "other"))), Rejected)
    assert sent(server)[0][kind or "token"] == "x"
    assert server.requests[-1].json["validate_only"] is True


@pytest.mark.parametrize(
    ("kind", "days", "is_sent"),
    [("token", 270, True), ("token", 271, False), ("fid", 271, False), ("", 271, False), ("topic", 271, True)],
)
async def test_an_app_that_was_not_started_for_long(
    server: FakeServer, account: dict[str, str], kind: str, days: int, is_sent: bool
) -> None:
    """After 270 days FCM has dropped its token, so it is not asked; a topic has no app that could be silent."""
    seen = job().now - timedelta(days=days)
    async with channel(server, account) as fcm:
        found = await fcm.send(job(replace(endpoint("x", kind), last_seen_at=seen)))
    assert found == (Accepted("0:123") if is_sent else EndpointGone("silent"))
    assert len(sent(server)) == is_sent


async def test_an_application_may_change_it(server: FakeServer, account: dict[str, str]) -> None:
    """With a function of the job and the message."""

    def with_label(_: Job, message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "fcm_options": {"analytics_label": "test"}}

    async with channel(server, account, message=with_label) as fcm:
        await fcm.send(job(PHONE))
    assert sent(server)[0]["fcm_options"] == {"analytics_label": "test"}


@pytest.mark.parametrize(
    ("target", "data", "text"),
    [
        (PHONE, {"from": "x"}, "reserves"),
        (PHONE, {"google.x": "x"}, "reserves"),
        (PHONE, {"x": "y" * 4096}, "4096"),
        (endpoint("news", "topic"), {"x": "y" * 2048}, "2048"),
    ],
)
async def test_what_fcm_would_refuse(
    server: FakeServer, account: dict[str, str], target: Endpoint, data: Any, text: str
) -> None:
    """It is refused here: FCM's answer could not be told from that for an invalid token."""
    async with channel(server, account) as fcm:
        found = await fcm.send(job(target, data=data))
    assert isinstance(found, Rejected)
    assert text in found.error
    assert sent(server) == []


# -- what answers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refused(404, "NOT_FOUND", fcm_error("UNREGISTERED")), EndpointGone("UNREGISTERED")),
        (refused(400, "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT")), EndpointGone("INVALID_ARGUMENT")),
        (
            refused(400, "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), violation("message.token")),
            EndpointGone("INVALID_ARGUMENT"),
        ),
        (refused(400, "INVALID_ARGUMENT", violation("message.android.ttl")), Rejected("INVALID_ARGUMENT")),
        (
            refused(400, "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), violation("message.data[0].value")),
            Rejected("INVALID_ARGUMENT"),
        ),
        (refused(400, "INVALID_ARGUMENT"), Rejected("INVALID_ARGUMENT")),
        (
            refused(403, "PERMISSION_DENIED", fcm_error("SENDER_ID_MISMATCH")),
            Rejected("SENDER_ID_MISMATCH", is_unclear=True, error="the target belongs to another project"),
        ),
        (
            refused(403, "PERMISSION_DENIED"),
            Misconfigured("FCM answered 403 (PERMISSION_DENIED): compare project= and credentials="),
        ),
        (refused(404, "NOT_FOUND"), Misconfigured("FCM answered 404 (NOT_FOUND): compare project= and credentials=")),
        (Reply(404, b"<html>"), Misconfigured("FCM answered 404 (404): compare project= and credentials=")),
        (
            refused(401, "UNAUTHENTICATED", fcm_error("THIRD_PARTY_AUTH_ERROR")),
            Misconfigured("FCM has no valid APNs certificate or web push key: set it in the Firebase console"),
        ),
        (refused(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED")), Throttled(60.0)),
        (refused(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED"), Retry_After="90"), Throttled(90.0)),
        (refused(500, "INTERNAL", fcm_error("INTERNAL")), Transient("INTERNAL")),
        (refused(503, "UNAVAILABLE", fcm_error("UNAVAILABLE"), Retry_After="5"), Transient("UNAVAILABLE", 5.0)),
        (Reply(502, b"<html>"), Transient("502")),
        (Reply(200, b"[]"), Accepted()),
        (Reply(how="reset"), Ambiguous("the connection broke before the answer")),
    ],
)
async def test_each_answer_has_its_outcome(
    server: FakeServer, account: dict[str, str], reply: Reply, expected: Outcome
) -> None:
    """The kind of the details decides. Only a target that is invalid is retired, never by a wrong project or key."""
    server.answer(reply, path=SEND)
    async with channel(server, account) as fcm:
        found = await fcm.send(job(PHONE))
    assert found == expected
    assert "hush" not in repr(found)


async def test_a_client_of_ones_own(server: FakeServer, account: dict[str, str]) -> None:
    """It sends both requests, and its failures say whether bytes went out; the channel does not close it."""

    class Client:
        def __init__(self) -> None:
            self.calls: list[str] = []

        async def request(self, method: str, url: str, **_: Any) -> HttpAnswer:
            self.calls.append(url)
            if url.endswith("/token"):
                return HttpAnswer(200, {}, json.dumps(TOKEN.body).encode())
            raise HttpError("broken", is_sent=len(self.calls) > 2, code="broken")

    client = Client()
    async with FcmChannel("demo", account, client=client) as fcm:
        assert isinstance(await fcm.send(job(PHONE)), Transient)
        assert isinstance(await fcm.send(job(PHONE)), Ambiguous)
    assert [url.rpartition("/")[2] for url in client.calls] == ["token", "messages:send", "messages:send"]
