"""Pages of three sites in a real browser: the application's own, an allowed one, and a stranger's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.web.browser.sites import EVENT_SOURCE, SOCKET, Sites, serving_sites


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with serving_sites(tmp_path_factory.mktemp("sites")) as sites:
        yield sites


FETCH = """([url, init]) => fetch(url, {credentials: 'include', ...init}).then(
    response => { response.body?.cancel(); return response.type === 'opaque' ? 'opaque' : response.status; },
    () => 'refused')"""

TICKET = """url => fetch(url, {method: 'POST', headers: {authorization: 'Bearer bob', 'x-notify': '1'}})
    .then(response => response.json()).then(answer => answer.ticket)"""


def at(context: BrowserContext, sites: Sites, origin: str) -> Page:
    """A tab at a page of this origin, of a browser that has the application's cookie."""
    page = context.new_page()
    page.goto(f"{sites.own}/page")
    if origin != sites.own:
        page.goto(f"{origin}/page")
    sites.noted()
    return page


def test_the_own_page_needs_nothing(context: BrowserContext, sites: Sites) -> None:
    """Every transport works with the cookie; GETs carry no origin, the WebSocket nothing else."""
    page = at(context, sites, sites.own)
    assert page.evaluate(EVENT_SOURCE, f"{sites.own}/stream") == "open"
    assert page.evaluate(FETCH, [f"{sites.own}/events", {}]) == 200
    assert page.evaluate(FETCH, [f"{sites.own}/ticket", {"method": "POST"}]) == 200
    assert page.evaluate(SOCKET, [f"{sites.own}/ws", ["notify.v1"]]) == "notify.sync"
    noted = sites.noted()["noted"]
    rest = {"sec-fetch-site": "same-origin", "cookie": "user=alice"}
    assert noted == [
        {"kind": "http", "method": "GET", "path": "/stream", **rest},
        {"kind": "http", "method": "GET", "path": "/events", **rest},
        {"kind": "http", "method": "POST", "path": "/ticket", "origin": sites.own, **rest},
        {"kind": "websocket", "method": "GET", "path": "/ws", "origin": sites.own, "cookie": "user=alice"},
    ]


def test_a_strangers_page_reaches_nothing(context: BrowserContext, sites: Sites) -> None:
    """Neither streams nor sockets nor a form: `authenticate` is not even asked."""
    page = at(context, sites, sites.stranger)
    assert page.evaluate(EVENT_SOURCE, f"{sites.own}/stream") == "refused"
    assert page.evaluate(FETCH, [f"{sites.own}/events", {}]) == "refused"
    assert page.evaluate(FETCH, [f"{sites.own}/events", {"mode": "no-cors"}]) == "opaque"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        init = {"method": "POST", "body": "{}", "headers": {"content-type": kind}}
        assert page.evaluate(FETCH, [f"{sites.own}/ticket", init]) == "refused"
        assert page.evaluate(FETCH, [f"{sites.own}/ticket", {**init, "mode": "no-cors"}]) == "opaque"
    assert page.evaluate(SOCKET, [f"{sites.own}/ws", ["notify.v1"]]) == 1006
    found = sites.noted()
    assert found["asked"] == []
    assert len(found["noted"]) >= 9
    for each in found["noted"]:
        assert {"origin", "sec-fetch-site"} & each.keys()  # a GET without CORS has no origin, a WebSocket no other
        assert each.get("origin", sites.stranger) == sites.stranger
        assert each.get("sec-fetch-site", "cross-site") == "cross-site"


def test_a_sandboxed_frame_of_the_own_page_is_a_stranger(context: BrowserContext, sites: Sites) -> None:
    """Its origin is `null`."""
    page = at(context, sites, sites.own)
    code = f"({EVENT_SOURCE})('{sites.own}/stream').then(result => parent.postMessage(result, '*'))"
    result = page.evaluate(
        """code => new Promise(done => {
            addEventListener('message', event => done(event.data));
            const frame = document.createElement('iframe');
            frame.sandbox = 'allow-scripts';
            frame.srcdoc = `<script>${code}</script>`;
            document.body.append(frame);
        })""",
        code,
    )
    assert result == "refused"
    found = sites.noted()
    assert found["asked"] == []
    assert {each["origin"] for each in found["noted"]} == {"null"}


def test_an_allowed_page_uses_tokens_and_tickets(context: BrowserContext, sites: Sites) -> None:
    """A preflight lets its token through; a ticket opens the streams that can carry no token, each once."""
    page = at(context, sites, sites.friend)
    init = {"headers": {"authorization": "Bearer bob", "last-event-id": "0"}}
    assert page.evaluate(FETCH, [f"{sites.own}/events", init]) == 200
    tickets = [page.evaluate(TICKET, f"{sites.own}/ticket") for _ in range(2)]
    url = f"{sites.own}/stream?ticket={tickets[0]}"
    assert page.evaluate(EVENT_SOURCE, url) == "open"
    assert page.evaluate(EVENT_SOURCE, url) == "refused"
    assert page.evaluate(SOCKET, [f"{sites.own}/ws", ["notify.v1", f"ticket.{tickets[1]}"]]) == "notify.sync"
    assert page.evaluate(SOCKET, [f"{sites.own}/ws", ["notify.v1", f"ticket.{tickets[1]}"]]) == 4001
    methods = [each["method"] for each in sites.noted()["noted"]]
    assert methods[:2] == ["OPTIONS", "GET"]


def test_the_ticket_of_an_allowed_page_is_of_no_use_to_the_own_one(context: BrowserContext, sites: Sites) -> None:
    """It is bound to the page that asked for it."""
    ticket = at(context, sites, sites.friend).evaluate(TICKET, f"{sites.own}/ticket")
    own = at(context, sites, sites.own)
    assert own.evaluate(SOCKET, [f"{sites.own}/ws", ["notify.v1", f"ticket.{ticket}"]]) == 4001
