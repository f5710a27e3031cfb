"""`notify serve` and `notify token`: real processes, and clients that may or may not enter."""

from __future__ import annotations

import argparse
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from notify.cli import _serve
from notify.cli._serve import MAX_FRAME, authentication, listening
from notify.cli._serve import forwarded as forwarded_app
from notify.cli._tokens import TokenClaim, sign, verify
from notify.errors import NotifyError, UsageError
from notify.web import Request
from notify.web._commands import MAX_COMMAND
from tests.cli.commands import Done, Running, called, notify, running
from tests.parts import BatchStore

SECRET = "s" * 32
OTHER = "t" * 32
TOKENS = {"NOTIFY_TOKEN_SECRET": SECRET}
NOW = 1_800_000_000.0


@contextmanager
def serving(directory: Path, *arguments: str, in_fork: bool = True, **variables: str) -> Iterator[tuple[Running, str]]:
    """Run the server on a free port; yields it and its URL."""
    command = ("serve", "--port", "0", *arguments)
    with running(directory, *command, variables={**TOKENS, **variables}, in_fork=in_fork) as server:
        found = re.search(r" at (http://\S+)", server.wait_for("serving "))
        assert found is not None
        yield server, found[1]


def bearer(user: str, secret: str = SECRET, lifetime: float = 60) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(user, time.time() + lifetime, secret.encode())}"}


def first_event(url: str, **headers: str) -> dict[str, Any]:
    """The first application event of a stream from the beginning of the log."""
    with httpx.stream("GET", f"{url}/stream?last_event_id=0", headers=headers, timeout=20) as response:
        assert response.status_code == 200
        event = ""
        for line in response.iter_lines():
            if line.startswith("event:"):
                event = line
            elif line.startswith("data:") and not event:
                found: dict[str, Any] = json.loads(line[5:])
                return found
    raise AssertionError("the stream ended")


def one_line(done: Done, status: int) -> str:
    assert (done.status, done.out) == (status, ""), done
    assert re.fullmatch(r"notify: [^\n]+\n", done.err), done.err
    return done.err


# -- the server ----------------------------------------------------------------------------------------------------


def test_a_browser_gets_what_another_process_pushes(tmp_path: Path) -> None:
    """With a token of `notify token` a client reads its user's events, also under any prefix; Ctrl-C ends it: 130."""
    with serving(tmp_path) as (server, url):
        server.wait_for("created", server.err)
        assert server.err == ["notify: created 'notify.db'"]
        token = called(tmp_path, "token", "alice", variables=TOKENS).out.strip()
        assert called(tmp_path, "push", "alice", "comment.created", '{"post": 7}').status == 0
        for place in (url, f"{url}/any/prefix"):
            event = first_event(place, Authorization=f"Bearer {token}")
            assert (event["user"], event["type"], event["payload"]) == ("alice", "comment.created", {"post": 7})
        assert httpx.get(f"{url}/stream").status_code == 401
        assert httpx.get(f"{url}/stream", headers=bearer("alice", OTHER)).status_code == 401
        assert server.interrupt().status == 130
        assert server.out[1:] == []


def test_a_stream_is_signed_off(tmp_path: Path) -> None:
    """SIGTERM ends open streams with `notify.end`, at once, and the command with 143."""
    with serving(tmp_path) as (server, url):
        with httpx.stream("GET", f"{url}/stream", headers=bearer("bob"), timeout=20) as response:
            lines = response.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: notify.sync"
            server.process.send_signal(signal.SIGTERM)
            rest = "\n".join(lines)
        assert "event: notify.end" in rest
        assert '"shutdown"' in rest
        assert server.wait().status == 143


def test_it_ends_with_its_input(tmp_path: Path) -> None:
    """With --with-stdin it ends as soon as standard input is closed; what is written to it does not matter."""
    with serving(tmp_path, "--with-stdin") as (server, url):
        server.write("anything\n")
        assert httpx.get(f"{url}/stream").status_code == 401
        server.end_input()
        assert server.process.wait(20) == 0


def test_other_programs_push(tmp_path: Path) -> None:
    """POST /push exists where NOTIFY_PUSH_SECRETS names secrets; several are valid while one replaces another."""
    body = {"user": "alice", "type": "greeting", "payload": {"text": "hello"}}
    with serving(tmp_path) as (_, url):
        assert httpx.post(f"{url}/push", json=body).status_code == 404
    with serving(tmp_path, NOTIFY_PUSH_SECRETS=f"{OTHER} {'u' * 40}") as (_, url):
        for secret, status in ((OTHER, 202), ("u" * 40, 202), (SECRET, 401)):
            answer = httpx.post(f"{url}/push", json=body, headers={"Authorization": f"Bearer {secret}"})
            assert answer.status_code == status, answer.text
        assert first_event(url, **bearer("alice"))["payload"] == {"text": "hello"}


def test_a_wrong_secret_behind_a_proxy_slows_its_own_client_down(tmp_path: Path) -> None:
    """With --trust a pusher counts by the address that its proxy has noted, and cannot choose one; else by the peer."""

    def push(url: str, secret: str, forwarded: str) -> int:
        headers = {"Authorization": f"Bearer {secret}", "X-Forwarded-For": forwarded}
        return httpx.post(f"{url}/push", json={"user": "alice", "type": "greeting"}, headers=headers).status_code

    for trust, others in (("127.0.0.0/8", 202), ("192.0.2.1", 429)):
        with serving(tmp_path, "--trust", trust, NOTIFY_PUSH_SECRETS=OTHER) as (_, url):
            for number in range(5):
                assert push(url, SECRET, f"203.0.113.{number}, 198.51.100.1") == 401
            assert push(url, OTHER, "198.51.100.1") == 429
            assert push(url, OTHER, "198.51.100.2") == others


def test_a_frame_that_no_command_needs_is_refused(tmp_path: Path) -> None:
    """A command that is too large is told so; what is much larger does not reach the application."""
    assert MAX_FRAME > MAX_COMMAND
    with serving(tmp_path) as (_, url):
        for size, code in ((MAX_COMMAND + 1, 4000), (MAX_FRAME + 1, 1009)):
            place = url.replace("http", "ws", 1)
            headers = bearer("alice")
            with connect(f"{place}/ws", subprotocols=["notify.v1"], additional_headers=headers, proxy=None) as socket:
                socket.send("x" * size)
                with suppress(ConnectionClosed):
                    list(socket)
                assert socket.close_code == code


def test_a_proxy_names_the_user(tmp_path: Path) -> None:
    """The header counts from a trusted peer only, whatever X-Forwarded-For says."""
    header = {"X-User": "alice", "X-Forwarded-For": "127.0.0.1"}
    called(tmp_path, "push", "alice", "greeting")
    with serving(tmp_path, "--user-header", "X-User", "--trust", "127.0.0.0/8") as (_, url):
        assert first_event(url, **header)["type"] == "greeting"
        assert httpx.get(f"{url}/stream").status_code == 401
    with serving(tmp_path, "--user-header", "X-User", "--trust", "192.0.2.1") as (_, url):
        assert httpx.get(f"{url}/stream", headers=header).status_code == 401


def test_sites_and_retry(tmp_path: Path) -> None:
    """--origin admits pages of another site; --retry sets when clients come back."""
    options = ("--origin", "https://app.example.com", "--retry", "2", "2")
    with serving(tmp_path, *options) as (_, url):
        for origin, status in (("https://app.example.com", 200), ("https://evil.example", 403)):
            headers = {**bearer("alice"), "Origin": origin, "Sec-Fetch-Site": "cross-site"}
            with httpx.stream("GET", f"{url}/stream", headers=headers, timeout=20) as response:
                assert response.status_code == status
                if status == 200:
                    assert next(response.iter_lines()) == "retry: 2000"


def test_refuses_to_start_without_authentication(tmp_path: Path) -> None:
    """It names what to configure, and touches no store before."""
    text = one_line(called(tmp_path, "serve"), 2)
    assert "NOTIFY_TOKEN_SECRET" in text
    assert "--user-header" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (("serve", "--user-header", "X-User"), {}, "--user-header needs --trust"),
        (("serve", "--trust", "127.0.0.1"), {}, "needs a way to identify its clients"),
        (("serve", "--trust", "localhost"), TOKENS, "expects an address or a network"),
        (("serve", "--user-header", "X-User", "--trust", "localhost"), {}, "expects an address or a network"),
        (("serve",), {"NOTIFY_TOKEN_SECRET": "short"}, "has 5 bytes and needs at least 32"),
        (("serve",), {**TOKENS, "NOTIFY_PUSH_SECRETS": "short"}, "NOTIFY_PUSH_SECRETS has 5 bytes"),
        (("serve", "--port", "x"), TOKENS, "expected a port"),
        (("serve", "--port", "65536"), TOKENS, "expected a port"),
        (("serve", "--retry", "1", "0"), TOKENS, "expected a number of seconds"),
        (("serve", "--retry", "5", "1"), TOKENS, "retry"),
        (("serve", "--origin", "*"), TOKENS, "origin"),
        (("token", "alice"), {}, "NOTIFY_TOKEN_SECRET"),
        (("token", "a\nb"), TOKENS, "user"),
        (("token", ""), TOKENS, "user"),
    ],
)
def test_wrong_command_lines(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], expected: str
) -> None:
    """A wrong option is one line that says what to do, with status 2."""
    done = called(tmp_path, *arguments, variables=variables)
    lines = [line for line in done.err.splitlines() if "created" not in line]
    assert (done.status, done.out, len(lines)) == (2, "", 1), done
    assert expected in lines[0]


def test_a_port_in_use(tmp_path: Path) -> None:
    """It is reported in one line with status 1."""
    with serving(tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        done = called(tmp_path, "serve", "--port", port, variables=TOKENS)
        assert f"port {port} of 127.0.0.1 is in use: choose another with --port" in one_line(done, 1)


def test_ipv6() -> None:
    """An address with colons is an IPv6 address; one that is not of this host is refused."""
    with listening("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"
    with pytest.raises(NotifyError, match=r"^cannot listen on 192\.0\.2\.1 port 0: [^(]+$"):
        listening("192.0.2.1", 0)
    with pytest.raises(NotifyError, match=r"^cannot listen on name\.invalid port 0: \D+$"):
        listening("name.invalid", 0)


def test_without_uvicorn(tmp_path: Path) -> None:
    """A missing uvicorn is one line that names the extra to install."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('No module named uvicorn', name='uvicorn')\n")
    done = notify(tmp_path, "serve", variables={**TOKENS, "PYTHONPATH": str(tmp_path)})
    assert "'notify-streams[serve]'" in one_line(done, 1)


# -- authentication ------------------------------------------------------------------------------------------------


def request(client: str | None = "10.1.2.3", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    peer = None if client is None else (client, 1)
    return Request({"type": "http", "path": "/stream", "query_string": b"", "headers": pairs, "client": peer})


def options(header: str | None = None, *trust: str) -> argparse.Namespace:
    return argparse.Namespace(user_header=header, trust=[*trust])


@pytest.mark.parametrize(
    ("client", "value", "user"),
    [
        ("10.1.2.3", "alice", "alice"), ("10.255.0.1", "alice", "alice"), ("::ffff:10.1.2.3", "alice", "alice"),
        ("fd00::1", "alice", "alice"), ("11.0.0.1", "alice", None), ("::1", "alice", None), (None, "alice", None),
        ("unix:", "alice", None), ("10.1.2.3", "", None), ("10.1.2.3", "a" * 300, None), ("10.1.2.3", "a\x7f", None),
    ],
)  # fmt: skip
def test_trusted_header(client: str | None, value: str, user: str | None) -> None:
    """The header names the user if the peer is in a trusted network, and what it names is a user id."""
    authenticate = authentication(options("X-User", "10.0.0.0/8", "fd00::1"), {})
    identity = authenticate(request(client, x_user=value))
    assert (identity and identity.user) == user


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("client", "forwarded", "seen"),
    [
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),  # the client has written the first one
        ("10.0.0.1", ["203.0.113.9", " 192.0.2.1 , 10.0.0.2"], "192.0.2.1"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["203.0.113.9:80, 192.0.2.1:4711, [::ffff:10.0.0.2]:80"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, [::1"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1:port"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("192.0.2.7", ["192.0.2.1"], "192.0.2.7"),
        (None, ["192.0.2.1"], ""),
    ],
)
async def test_the_address_of_a_pusher(client: str | None, forwarded: list[str], seen: str) -> None:
    """It is the first that no trusted proxy has, from the server's side; streams keep the peer, for the header."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    peer = None if client is None else (client, 5000)
    headers = [(b"X-Forwarded-For", value.encode()) for value in forwarded]
    wrapped = forwarded_app(app, [ip_network("10.0.0.0/8")])
    for kind, path in (("http", "/any/push/"), ("http", "/stream"), ("websocket", "/push"), ("lifespan", "")):
        await wrapped({"type": kind, "path": path, "headers": headers, "client": peer}, None, None)
    assert [scope["client"] for scope in scopes] == [(seen, 0), peer, peer, peer]
    assert forwarded_app(app, []) is app


@pytest.mark.anyio
async def test_a_store_without_inboxes_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another distribution adds by its scheme may be just a log: streams work, and there is no inbox."""
    answers: list[int] = []

    @asynccontextmanager
    async def entered(*_: object) -> AsyncIterator[BatchStore]:
        yield BatchStore()

    async def run_server(app: Any, *_: object, **__: object) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            found = [await client.get(path, headers=bearer("alice")) for path in ("/events", "/inbox")]
        answers.extend(answer.status_code for answer in found)
        return 0

    monkeypatch.setenv("NOTIFY_TOKEN_SECRET", SECRET)
    monkeypatch.setattr(_serve, "entered", entered)
    monkeypatch.setattr(_serve, "run_server", run_server)
    settings = {"demo": False, "retry": None, "origin": [], "host": "127.0.0.1", "port": 0, "with_stdin": False}
    assert await _serve.serve(argparse.Namespace(**vars(options()), **settings, store="other://")) == 0
    assert answers == [200, 404]


@pytest.mark.parametrize(
    ("trust", "client", "user"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1", "alice"), ("::ffff:10.0.0.1", "::ffff:10.0.0.1", "alice"),
        ("::ffff:10.0.0.0/104", "10.9.9.9", "alice"), ("::ffff:10.0.0.0/104", "11.0.0.1", None),
        ("::ffff:10.0.0.1", "10.0.0.2", None),
    ],
)  # fmt: skip
def test_trusted_networks_of_ipv4_that_are_written_as_ipv6(trust: str, client: str, user: str | None) -> None:
    """A socket for both families reports its IPv4 peers in this form, so it is what a log shows the operator."""
    identity = authentication(options("X-User", trust), {})(request(client, x_user="alice"))
    assert (identity and identity.user) == user


def test_both_ways() -> None:
    """A token decides where there is one, also against the header; otherwise the header does."""
    authenticate = authentication(options("X-User", "10.0.0.0/8"), TOKENS)
    good, bad = bearer("bob")["Authorization"], bearer("bob", OTHER)["Authorization"]
    for headers, user in (
        ({"x_user": "alice"}, "alice"),
        ({"x_user": "alice", "authorization": good}, "bob"),
        ({"x_user": "alice", "authorization": bad}, None),
        ({"authorization": "Basic YTpi"}, None),
        ({}, None),
    ):
        identity = authenticate(request(**headers))
        assert (identity and identity.user) == user
    identity = authenticate(request(authorization=good))
    assert identity is not None
    assert identity.expires_at is not None
    assert authentication(options(), TOKENS)(request(x_user="alice")) is None
    wrong = sign("a\nb", time.time() + 60, SECRET.encode())
    assert authenticate(request(authorization=f"Bearer {wrong}")) is None


def test_a_wrong_network_is_refused() -> None:
    with pytest.raises(UsageError, match="got 'proxy'"):
        authentication(options("X-User", "proxy"), {})


# -- tokens --------------------------------------------------------------------------------------------------------


def test_tokens_are_json_web_tokens() -> None:
    """A token has the three parts of RFC 7519 and says what it was made for."""
    token = sign("alice", NOW + 60, SECRET.encode())
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]{43}", token)
    claim = verify(token, SECRET.encode(), NOW)
    assert claim is not None
    assert (claim.user, claim.expires_at.timestamp()) == ("alice", NOW + 60)


def forged(claims: Any, header: Any = None, secret: str = SECRET) -> str:
    """A token with these contents and a right signature."""
    from notify.cli._tokens import _base64, _signature

    parts = [_base64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (
        {"alg": "HS256"} if header is None else header, claims
    )]  # fmt: skip
    text = ".".join(parts)
    return f"{text}.{_base64(_signature(text, secret.encode()))}"


GOOD = {"sub": "alice", "aud": "notify", "exp": NOW + 60}


@pytest.mark.parametrize("claims", [GOOD, {**GOOD, "aud": ["x", "notify"]}, {**GOOD, "nbf": NOW + 3, "more": 1}])
def test_tokens_of_other_libraries(claims: dict[str, Any]) -> None:
    claim = verify(forged(claims), SECRET.encode(), NOW)
    assert claim is not None
    assert claim.user == "alice"


@pytest.mark.parametrize(
    "token",
    [
        "", "a", "a.b", "a.b.c", "..", "é.b.c", "a" * 9_000, forged(GOOD) + "a", forged(GOOD, secret=OTHER),
        forged(GOOD, {"alg": "none"}), forged(GOOD, {"alg": "HS512"}), forged(GOOD, {"alg": "HS256", "crit": ["x"]}),
        forged(GOOD, {}), forged(GOOD, b"\xff"), forged(GOOD, b"[" * 4_000), forged([1]), forged(b"x"), forged("x"),
        *(forged({name: value for name, value in GOOD.items() if name != missing}) for missing in GOOD),
        *(forged({**GOOD, "exp": value}) for value in (NOW, NOW - 1, "9999999999", True, None, 1e300, -1, [])),
        *(forged({**GOOD, "nbf": value}) for value in (NOW + 60, "0", None, True)),
        *(forged({**GOOD, "sub": value}) for value in ("", 7, None, ["alice"])),
        *(forged({**GOOD, "aud": value}) for value in ("other", ["other"], None, {"notify": 1})),
    ],
)  # fmt: skip
def test_tokens_that_are_refused(token: str) -> None:
    """Wrong signature, algorithm, audience, user or time: no token opens a stream by half of it."""
    assert verify(token, SECRET.encode(), NOW) is None


def test_none_of_its_parts_can_be_changed() -> None:
    """Each changed character makes a token worthless."""
    token = sign("alice", NOW + 60, SECRET.encode())
    for position in range(len(token)):
        changed = token[:position] + ("B" if token[position] == "A" else "A") + token[position + 1 :]
        assert not isinstance(verify(changed, SECRET.encode(), NOW), TokenClaim), position


def test_the_secret_never_shows(tmp_path: Path) -> None:
    """Neither the output nor the command line holds the secret."""
    with serving(tmp_path, "--verbose", in_fork=False) as (server, url):
        httpx.get(f"{url}/stream", headers=bearer("alice", OTHER))
        line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        server.interrupt()
        assert SECRET not in "\n".join([*server.out, *server.err])
        assert SECRET.encode() not in line
