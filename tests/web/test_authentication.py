"""Calling the application's `authenticate`: what it may return, and what happens when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from django.contrib.sessions.backends.base import SessionBase

from notify import Notifier, UsageError
from notify._asgi import Identity, Request, WebError
from notify._asgi import _identify as module
from notify.web._authentication import Authentication, may_use, ticket_of
from notify.web._credentials import SESSION_KEY, bearer_token, end_session, session_id
from notify.web._login import Client, login_of
from notify.web._tickets import Tickets
from notify_memory import MemoryStore
from tests.web.frameworks import django

pytestmark = pytest.mark.anyio

FUTURE = datetime.now(UTC) + timedelta(hours=1)
PAST = datetime.now(UTC) - timedelta(seconds=1)


def request(query: bytes = b"", scheme: str = "http", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/stream", "query_string": query, "scheme": scheme}
    return Request({**scope, "headers": raw})


def made(authenticate: Any, tickets: Tickets | None = None, **options: Any) -> Authentication:
    return Authentication(authenticate, tickets or Tickets(None, 30.0), **options)


def returning(value: Any) -> Callable[[Request], Any]:
    return lambda request: value


async def refusal(authentication: Authentication, asked: Request | None = None) -> WebError:
    with pytest.raises(WebError) as caught:
        await authentication.identify(asked or request())
    return caught.value


async def test_plain_and_async_functions() -> None:
    """A user id or a whole identity, at once or awaited; the function sees the request."""

    async def by_token(request: Request) -> str | None:
        await anyio.lowlevel.checkpoint()
        return bearer_token(request)

    full = Identity("alice", ("topic",), FUTURE, "session-1")
    assert await made(returning("alice")).identify(request()) == Identity("alice")
    assert await made(returning(full)).identify(request()) == full
    assert await made(returning(Identity("alice", ["a", "b"]))).identify(request()) == Identity("alice", ("a", "b"))
    assert await made(by_token).identify(request(authorization="Bearer carol")) == Identity("carol")
    nameless = await refusal(made(by_token))
    assert (nameless.status, nameless.code) == (401, "unauthenticated")
    assert dict(nameless.headers)[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize("user", ["", "a\r\nb", "\0", "x" * 256, "\ud800"])
async def test_an_id_that_cannot_be_a_users_is_the_clients_fault(user: str) -> None:
    """Such an id came from the request: 401, and nothing is logged as a failure of the application."""
    for value in (user, Identity(user), Identity("alice", (user,))):
        error = await refusal(made(returning(value)))
        assert (error.status, error.code) == (401, "unauthenticated")
        assert "\r" not in error.message


async def test_a_session_that_cannot_be_one() -> None:
    """The session is checked as the user is; an empty one is none."""
    assert (await refusal(made(returning(Identity("alice", session="\n"))))).status == 401
    assert await made(returning(Identity("alice", session=""))).identify(request()) == Identity("alice")


@pytest.mark.parametrize(
    "value",
    [
        42,
        b"alice",
        ["alice"],
        True,
        Identity(7),  # type: ignore[arg-type]
        Identity("alice", "topic"),
        Identity("alice", None),  # type: ignore[arg-type]
        Identity("alice", (1,)),  # type: ignore[arg-type]
        Identity("alice", tuple(f"topic-{number}" for number in range(1001))),
        Identity("alice", expires_at=datetime(2099, 1, 1)),
        Identity("alice", expires_at=5),  # type: ignore[arg-type]
        Identity("alice", session=None),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_result_names_the_function(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """500 that says that `authenticate` is to blame, in the log too."""
    with caplog.at_level(logging.INFO, "notify.web"):
        error = await refusal(made(returning(value)))
    assert (error.status, error.code) == (500, "authenticate_failed")
    assert "authenticate()" in error.message or "Identity" in error.message
    assert "authenticate() failed" in caplog.text


async def test_a_numeric_id_is_told_how_to_become_a_user() -> None:
    """The most likely mistake, `return request_user.pk`, is answered with what to write."""
    error = await refusal(made(returning(42)))
    assert "not int" in error.message
    assert "str(...)" in error.message


async def test_a_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """503, and no detail for the client; one line when it begins to fail, one when it works again."""
    broken = True

    def fails(request: Request) -> str:
        if broken:
            raise KeyError(request.headers["authorization"], request.cookies["sid"], request.query["ticket"])
        return "alice"

    authentication = made(fails)
    asked = request(b"ticket=t0psecretticket", authorization="Bearer s3cr3t-token", cookie="sid=c00kiesecret; x=y")
    with caplog.at_level(logging.INFO, "notify.web"):
        for _ in range(3):
            error = await refusal(authentication, asked)
            assert (error.status, error.code) == (503, "authenticate_failed")
            assert "not the client's fault" in error.message
        broken = False
        assert await authentication.identify(asked) == Identity("alice")
    failed, recovered = (record.getMessage() for record in caplog.records)
    assert "in fails" in failed
    assert "KeyError" in failed
    assert "works again" in recovered
    for secret in ("s3cr3t-token", "c00kiesecret", "t0psecretticket"):
        assert secret not in caplog.text + error.message


@pytest.mark.parametrize(
    ("query", "headers", "raised"),
    [
        (b"token=a%2fsecret%3D%3D", {}, lambda request: request.scope["query_string"]),
        (b"token=a%2fsecret%3D%3D", {}, lambda request: request.query["token"]),
        (b"token=a%2fsecret%3D%3D", {}, lambda request: "https://idp.example/?t=a%2Fsecret%3D%3D"),
        (b"token=a/secret==", {}, lambda request: "https://idp.example/?t=a%2Fsecret%3D%3D"),
        (b"", {"cookie": "sid=a%2Fsecret%3D%3D"}, lambda request: "a/secret=="),
        (b"", {"cookie": 'sid="a/secret=="'}, lambda request: request.headers["cookie"]),
        (b"", {"cookie": "sid=it's\\a secret"}, lambda request: request.cookies),
        (b"", {"authorization": "Basic YWxpY2U6YSBzZWNyZXQ="}, lambda request: ["alice", "a secret"]),
        (b"", {"x_api_key": "a/secret=="}, lambda request: dict(request.headers)),
        (b"", {"sec_websocket_protocol": "notify.v1, bearer.a-secret"}, lambda request: "bearer.a-secret"),
    ],
)
async def test_no_form_of_a_credential_is_logged(
    query: bytes, headers: dict[str, str], raised: Callable[[Request], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Decoded or percent-encoded, in the case of either, in a header of the application's own, or within a `repr`."""

    def fails(request: Request) -> str:
        raise KeyError(raised(request))

    await refusal(made(fails), request(query, **headers))
    assert "KeyError" in caplog.text
    shown = caplog.text.partition("\nKeyError")[2]
    assert "secret" not in shown
    assert "..." in shown


async def test_failures_of_some_clients_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every second request succeeds, a minute has one pair of lines."""
    authentication = made(lambda request: "alice" if request.query else 1 / 0)
    with caplog.at_level(logging.INFO, "notify.web"):
        for _ in range(5):
            assert (await refusal(authentication)).status == 503
            assert await authentication.identify(request(b"a=b")) == Identity("alice")
        assert len(caplog.records) == 2
        later = module.monotonic() + 61
        monkeypatch.setattr(module, "monotonic", lambda: later)
        await refusal(authentication)
    assert len(caplog.records) == 3


async def test_a_function_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled after its time: 503, and the log says why."""
    cancelled: list[str] = []

    async def hangs(request: Request) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append("yes")

    with caplog.at_level(logging.INFO, "notify.web"), anyio.fail_after(10):
        assert (await refusal(made(hangs, timeout=0.01))).status == 503
    assert cancelled == ["yes"]
    assert "has not returned within 0.01 s" in caplog.text


async def test_a_function_whose_own_task_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Its CancelledError cancels nothing else: 503, as any failure."""

    async def stray(request: Request) -> str:
        raise asyncio.CancelledError

    with caplog.at_level(logging.INFO, "notify.web"):
        assert (await refusal(made(stray))).status == 503
    assert "was cancelled from inside" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_plain_function_that_asks_a_cancelled_task(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, one that reads what a task has prefetched: its CancelledError does not end the connection's task."""
    prefetched = asyncio.get_running_loop().create_future()
    prefetched.cancel()
    with caplog.at_level(logging.INFO, "notify.web"):
        assert (await refusal(made(lambda _: prefetched.result()))).status == 503
    assert "was cancelled from inside" in caplog.text


@dataclass
class HTTPException(Exception):
    """As web frameworks have it."""

    status_code: int


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthenticated"), (403, "forbidden"), (418, "authenticate_failed")]
)
async def test_an_exception_of_a_framework_refuses(status: int, code: str) -> None:
    """`HTTPException(401)` and 403 mean what they say; others are failures."""

    def raises(request: Request) -> str:
        raise HTTPException(status)

    error = await refusal(made(raises))
    assert error.code == code
    assert error.status == (503 if status == 418 else status)


async def test_an_error_of_ours_passes() -> None:
    """The application may say exactly how a client is refused."""

    async def raises(request: Request) -> str:
        raise WebError(402, "payment_required", "the trial has ended")

    assert (await refusal(made(raises))).status == 402


async def test_expired_credentials() -> None:
    """They open nothing, whether they come from the function or with a ticket."""
    error = await refusal(made(returning(Identity("alice", expires_at=PAST))))
    assert (error.status, error.code) == (401, "expired")
    tickets = Tickets(None, 30.0)
    issued = await tickets.issue(Client(Identity("alice", expires_at=PAST), ""), "")
    with pytest.raises(WebError) as caught:
        await made(returning("bob"), tickets).identify_stream(request(f"ticket={issued.ticket}".encode()))
    assert caught.value.code == "expired"


async def test_a_ticket_goes_before_the_function() -> None:
    """A request with a ticket is its owner's, or refused; without one, `authenticate` is called."""
    tickets = Tickets(None, 30.0)
    authentication = made(returning("bob"), tickets)
    issued = await tickets.issue(Client(Identity("alice", session="s"), "s"), "")
    asked = request(f"ticket={issued.ticket}".encode())
    assert await authentication.identify_stream(asked) == (Identity("alice", session="s"), "s")
    with pytest.raises(WebError) as caught:
        await authentication.identify_stream(asked)
    assert (caught.value.status, caught.value.code) == (401, "invalid_ticket")
    assert await authentication.identify_stream(request()) == (Identity("bob"), "")
    assert await authentication.identify(asked) == Identity("bob")


@pytest.mark.parametrize("given", [None, "alice", 5])
async def test_authenticate_must_be_a_function(given: Any) -> None:
    """There is no default that lets clients in."""
    with pytest.raises(UsageError, match="authenticate"):
        made(given)


def test_where_a_ticket_stands() -> None:
    """In the URL, or beside the real subprotocol."""
    assert ticket_of(request()) is None
    assert ticket_of(request(b"ticket=abc")) == "abc"
    assert ticket_of(request(b"ticket=")) == ""
    scope = {"type": "websocket", "headers": [], "subprotocols": ["notify.v1", "ticket.xyz"]}
    assert ticket_of(Request(scope)) == "xyz"
    assert ticket_of(Request({**scope, "subprotocols": ["notify.v1"], "query_string": b"ticket=q"})) == "q"


@pytest.mark.parametrize(
    ("bound", "headers", "expected"),
    [
        ("", {"origin": "https://a.example"}, True),  # asked for by a program
        ("", {}, True),
        ("https://a.example", {"origin": "https://a.example"}, True),
        ("https://a.example", {"origin": "HTTPS://a.example:443"}, True),
        ("https://a.example", {"origin": "https://b.example"}, False),
        ("https://a.example", {"origin": "http://a.example"}, False),
        ("https://a.example", {"origin": "null"}, False),
        ("https://a.example", {"host": "push.example"}, False),  # a program with a ticket of a page
        ("https://push.example", {"host": "push.example"}, True),  # no origin: a GET to the page's own host
        ("https://push.example", {"host": "10.0.0.1", "sec-fetch-site": "same-origin"}, True),
        ("https://push.example", {"host": "10.0.0.1", "sec-fetch-site": "none"}, False),
    ],
)
def test_a_ticket_is_bound_to_its_origin(bound: str, headers: dict[str, str], expected: bool) -> None:
    """The page that asked for it may use it, and no other."""
    assert may_use(request(**headers), bound) is expected


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  a.b-c_d~e+f/g== ", "a.b-c_d~e+f/g=="),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("Bearer a b", None),
        ("Bearer a, Bearer b", None),
        ("Bearer ä", None),
        ("", None),
    ],
)
def test_bearer_tokens(header: str, token: str | None) -> None:
    """One token of the characters that tokens have; anything else is no token."""
    assert bearer_token(request(authorization=header)) == token
    assert bearer_token(request()) is None


def test_a_session_has_one_id_until_it_ends() -> None:
    """It is made at first use, survives what an application does at login, and is another one after logout."""
    session: dict[str, Any] = {}
    made = session_id(session)
    session["user"] = "alice"  # login
    assert session_id(session) == made == session[SESSION_KEY]
    assert session_id({}) != made
    session.clear()  # logout
    assert session_id(session) != made
    session[SESSION_KEY] = "admin"  # nothing that we made
    assert session_id(session).startswith("session.")
    with pytest.raises(UsageError, match="session"):
        session_id(None)  # type: ignore[arg-type]


class DjangoSession(SessionBase):
    """A session of Django that is kept nowhere."""

    def load(self) -> dict[str, Any]:
        return {}

    def create(self) -> None:
        self.modified = True

    def delete(self, session_key: str | None = None) -> None:
        pass


def test_a_session_of_django() -> None:
    """Its contents, and so the id, survive the new key that a login gives it; a logout flushes them."""
    assert django  # importing this module has configured Django
    session = DjangoSession()
    made = session_id(session)
    session.cycle_key()  # login
    assert session_id(session) == made
    assert session.modified
    session.flush()  # logout
    assert session_id(session) != made


async def test_ending_a_session_ends_its_streams_alone() -> None:
    """The user's other session stays connected; a session without an id ends nothing."""
    async with Notifier(MemoryStore()) as notifier:
        laptop: dict[str, Any] = {}
        phone: dict[str, Any] = {}
        async with (
            notifier.subscribe(["alice", session_id(laptop)]) as ended,
            notifier.subscribe(["alice", session_id(phone)]) as stays,
        ):
            await end_session(notifier, laptop)
            assert [event async for event in ended] == []
            await notifier.push("alice", "note", 1)
            assert (await stays.next(5)).payload == 1
        assert SESSION_KEY not in laptop
        await end_session(notifier, laptop)
        assert SESSION_KEY in phone


# -- which login it is -------------------------------------------------------------------------------------------


def login(read: Iterable[str] = (), session: str = "", **headers: str) -> str:
    """Return the login of a request of which these cookies were read."""
    asked = request(**headers)
    for name in read:
        asked.cookies.get(name)
    return login_of(Identity("alice", session=session), asked)


def test_a_login_is_the_session() -> None:
    """Whatever the credentials are."""
    assert login(session="s", authorization="Bearer 1", cookie="sid=1") == "s"


def test_a_login_without_session() -> None:
    """What it was authenticated with tells it from the next; cookies that change by themselves do not."""
    first = login(["sid"], cookie="sid=1; lb=a; csrf=x")
    assert first == login(["sid", "none"], cookie="lb=b; sid=1")
    assert first != login(["sid"], cookie="sid=2; lb=a; csrf=x")
    token = login(authorization="Bearer 1", cookie="lb=a")
    assert token == login(["none"], authorization="Bearer 1", cookie="lb=b")
    assert token != login(authorization="Bearer 2", cookie="lb=a")
    behind = login(["sid"], authorization="Basic x", cookie="sid=1")
    assert behind not in (login(["sid"], authorization="Basic x", cookie="sid=2"), first)


def test_a_login_of_which_no_cookie_was_read() -> None:
    """A framework has read them: all count, and without any there is nothing that tells logins apart."""
    assert login(cookie="sid=1; a=1") == login(["none"], cookie="sid=1; a=1")
    assert login(cookie="sid=1; a=1") != login(cookie="sid=1; a=2")
    assert login() == login(["sid"]) == ""
