"""The cross-site rules, held to what three browser engines were seen to send."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from notify import UsageError
from notify._asgi import CrossSiteRules, is_own_origin, parsed

HOST = "push.example"
OWN = f"https://{HOST}"
FRIEND = "https://app.example"
STRANGER = "https://evil.example"

RULES = CrossSiteRules([FRIEND])
"""An application at `push.example` that lets the pages of `app.example` in."""


class Sent(NamedTuple):
    """What an engine sends in one situation, and what becomes of it."""

    engine: str
    what: str
    headers: dict[str, str]
    passes: bool

    @property
    def name(self) -> str:
        return f"{self.engine}: {self.what}"


def cross(origin: str, site: str = "cross-site", **others: str) -> dict[str, str]:
    return {"host": HOST, "origin": origin, "sec-fetch-site": site, **others}


HTTP = [
    row
    for engine in ("Chromium", "Firefox", "WebKitGTK")
    for row in (
        Sent(engine, "GET of a page of the same origin", {"host": HOST, "sec-fetch-site": "same-origin"}, True),
        Sent(engine, "address typed by the user", {"host": HOST, "sec-fetch-site": "none"}, True),
        Sent(engine, "EventSource from another site", cross(STRANGER), False),
        Sent(engine, "EventSource from an allowed site", cross(FRIEND), True),
        Sent(engine, "image or link on another site", {"host": HOST, "sec-fetch-site": "cross-site"}, False),
        Sent(engine, "a sibling domain", cross("https://blog.example", "same-site"), False),
        Sent(engine, "an allowed sibling domain", cross(FRIEND, "same-site"), True),
        Sent(engine, "a sandboxed frame", cross("null"), False),
    )
] + [
    Sent("WebKitGTK", "GET from another site, with the cookie it adds", cross(STRANGER, cookie="sid=1"), False),
    Sent("an old browser", "GET of its own page", {"host": HOST}, True),
    Sent("an old browser", "GET from another site", {"host": HOST, "origin": STRANGER}, False),
    Sent("an old browser", "GET from its own origin", {"host": HOST, "origin": OWN}, True),
    Sent("a program", "GET with a cookie", {"host": HOST, "cookie": "sid=1"}, True),
    Sent("a proxy", "rewritten host, the browser knows better", cross(OWN, "same-origin", host="10.0.0.5:80"), True),
    Sent("a future browser", "an unknown word", cross(STRANGER, "same-planet"), False),
]

WEBSOCKET = [
    Sent("Chromium", "own page: Origin alone", {"host": HOST, "origin": OWN}, True),
    Sent("Chromium", "own page, with its cookie", {"host": HOST, "origin": OWN, "cookie": "sid=1"}, True),
    Sent("Chromium", "another site", {"host": HOST, "origin": STRANGER}, False),
    Sent("Chromium", "an allowed site", {"host": HOST, "origin": FRIEND, "cookie": "sid=1"}, True),
    Sent("Firefox", "own page", cross(OWN, "same-origin"), True),
    Sent("Firefox", "another site", cross(STRANGER), False),
    Sent("WebKitGTK", "own page", cross(OWN, "same-origin"), True),
    Sent("WebKitGTK", "another site, with the cookie it adds", cross(STRANGER, cookie="sid=1"), False),
    Sent("any", "a sandboxed frame", {"host": HOST, "origin": "null"}, False),
    Sent("any", "a word of Sec-Fetch-Site does not help", cross(STRANGER, "same-origin"), False),
    Sent("a program", "no Origin, a bearer token", {"host": HOST, "authorization": "Bearer x"}, True),
    Sent("a program", "no Origin, but a cookie", {"host": HOST, "cookie": "sid=1"}, False),
]


@pytest.mark.parametrize("sent", HTTP, ids=lambda sent: sent.name)
def test_what_engines_send_by_http(sent: Sent) -> None:
    """Own pages and allowed sites pass, every other site is refused, with 403 and a reason."""
    refusal = RULES.refusal("GET", "https", sent.headers)
    assert (refusal is None) == sent.passes
    assert refusal is None or (refusal.status, refusal.code) == (403, "cross_site")
    assert refusal is None or "origins=" in refusal.message


@pytest.mark.parametrize("sent", WEBSOCKET, ids=lambda sent: sent.name)
def test_what_engines_send_with_a_websocket(sent: Sent) -> None:
    """The origin decides alone; without one there may be no cookie."""
    refusal = RULES.websocket_refusal("wss", sent.headers)
    assert (refusal is None) == sent.passes
    assert refusal is None or (refusal.status, refusal.code) == (403, "cross_site")


JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
COOKIE = {"cookie": "sid=1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),  # no cookie: nothing of the user's is sent along
        (COOKIE | JSON, None),
        (COOKIE | {"content-type": "application/json; charset=utf-8"}, None),
        (COOKIE | {"x-notify": "1"}, None),
        (COOKIE | {"authorization": "Bearer x"}, None),
        (COOKIE | {"sec-fetch-site": "same-origin"}, None),
        (COOKIE | {"origin": OWN}, None),
        (COOKIE, 403),
        (FORM, 415),
        (COOKIE | FORM | {"origin": OWN}, 415),
        (COOKIE | {"content-type": "Text/Plain;charset=UTF-8"}, 415),
        (COOKIE | {"content-type": "multipart/form-data; boundary=x"}, 415),
        (COOKIE | JSON | {"origin": STRANGER}, 403),  # WebKit's no-cors POST carries the cookie
        (COOKIE | JSON | {"sec-fetch-site": "cross-site"}, 403),
        (COOKIE | JSON | {"origin": FRIEND, "sec-fetch-site": "cross-site"}, None),
        (COOKIE | {"origin": FRIEND, "sec-fetch-site": "cross-site"}, None),
    ],
)
def test_a_plain_form_changes_nothing(headers: dict[str, str], status: int | None) -> None:
    """What changes something is nothing that a form of any site can send."""
    refusal = RULES.refusal("POST", "https", {"host": HOST, **headers})
    assert (refusal and refusal.status) == status
    assert RULES.refusal("GET", "https", {"host": HOST, **FORM}) is None


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "expected"),
    [
        ("https://push.example", "https", "push.example", True),
        ("https://push.example", "https", "push.example:443", True),
        ("https://push.example:443", "https", "push.example", True),
        ("https://push.example", "http", "push.example", True),  # TLS ends at a proxy
        ("http://push.example", "https", "push.example", False),  # an unencrypted page of the same host
        ("http://push.example", "wss", "push.example", False),
        ("http://localhost:8000", "http", "localhost:8000", True),
        ("http://localhost:8001", "http", "localhost:8000", False),
        ("http://127.0.0.1:8000", "ws", "127.0.0.1:8000", True),
        ("http://[::1]:8000", "http", "[::1]:8000", True),
        ("HTTPS://PUSH.example", "https", "Push.Example", True),
        ("https://push.example.evil.example", "https", "push.example", False),
        ("https://evil.example", "https", "", False),
        ("https://", "https", "", False),
        ("null", "https", "null", False),
        ("app://push.example", "http", "push.example", False),
        ("https://push.example/", "https", "push.example", False),
        ("https://a@push.example", "https", "a@push.example", False),
        ("https://push.example\r\nx: y", "https", "push.example\r\nx: y", False),
    ],
)
def test_own_origin(origin: str, scheme: str, host: str, expected: bool) -> None:
    """Host and port decide; the scheme where the connection is known to be encrypted."""
    assert is_own_origin(origin, scheme, host) is expected


def test_forwarded_headers_are_not_believed() -> None:
    """Whatever a client claims about a proxy changes nothing."""
    claims = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example", "x-forwarded-proto": "https"}
    headers = {"host": HOST, "origin": STRANGER, **claims}
    assert RULES.refusal("GET", "http", headers) is not None
    assert RULES.websocket_refusal("ws", headers) is not None


def test_cors_names_the_allowed_origin_and_no_other() -> None:
    """The allowed page may read the answer with its cookies; caches keep the answers apart; nothing is a wildcard."""
    granted = dict(RULES.cors({"host": HOST, "origin": FRIEND}))
    assert granted[b"access-control-allow-origin"] == FRIEND.encode()
    assert granted[b"access-control-allow-credentials"] == b"true"
    assert granted[b"vary"] == b"Origin"
    for headers in ({}, {"origin": STRANGER}, {"origin": "null"}, {"origin": f"{FRIEND}\r\nset-cookie: a=b"}):
        assert RULES.cors(headers) == [(b"vary", b"Origin")]
    assert CrossSiteRules().cors({"origin": OWN}) == []


def test_preflight() -> None:
    """An allowed origin learns the methods and may send what it asked for; a forged list of headers is not repeated."""
    asks = {"origin": FRIEND, "access-control-request-method": "GET"}
    wanted = asks | {"access-control-request-headers": "authorization,last-event-id, x-user"}
    granted = dict(RULES.preflight(wanted, ["GET", "OPTIONS"]))
    assert granted[b"access-control-allow-methods"] == b"GET, OPTIONS"
    assert granted[b"access-control-allow-headers"] == b"authorization,last-event-id, x-user"
    assert int(granted[b"access-control-max-age"]) > 0
    for forged in ("", "x\r\nset-cookie: a=b", "x" * 2000, "ü"):
        granted = dict(RULES.preflight(asks | {"access-control-request-headers": forged}, ["GET"]))
        assert granted[b"access-control-allow-headers"].startswith(b"authorization, content-type")
    stranger = wanted | {"origin": STRANGER}
    assert dict(RULES.preflight(stranger, ["GET"])).keys() == {b"vary"}
    assert b"access-control-allow-methods" not in dict(RULES.preflight({"origin": FRIEND}, ["GET"]))


@pytest.mark.parametrize(
    "given",
    [
        "https://app.example",
        b"https://app.example",
        5,
        [7],
        ["*"],
        ["null"],
        ["https://*.example"],
        ["https://app.example/"],
        ["app.example"],
        [""],
        ["https://ä.example"],
        ["https://app.example:99999999"],
    ],
)
def test_origins_are_checked(given: Any) -> None:
    """A list that would let in every site, or none, is refused where it is written."""
    with pytest.raises(UsageError, match="origin"):
        CrossSiteRules(given)


def test_allowed_origins_are_compared_as_browsers_write_them() -> None:
    """Case and default port do not matter; applications in a shell have origins with schemes of their own."""
    rules = CrossSiteRules(["HTTPS://App.Example:443", "capacitor://localhost"])
    assert rules
    assert not CrossSiteRules()
    assert rules.is_allowed("https://app.example")
    assert rules.is_allowed("capacitor://localhost")
    assert not rules.is_allowed("http://app.example")
    assert not rules.is_allowed("https://app.example:444")
    assert not rules.is_allowed(None)


def test_an_origin_has_bounds() -> None:
    """A header of any length is judged without being searched."""
    assert parsed("https://" + "a" * 10_000) is None
    refusal = RULES.refusal("GET", "https", {"host": HOST, "origin": "x" * 10_000})
    assert refusal is not None
    assert len(refusal.message) < 400
