"""The client and its toasts in each browser engine: `make test-browsers` adds Firefox and WebKitGTK to Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.browser.engines import ENGINES, Engine, Tab, chromium_of, launched, until
from tests.web.browser.scripted import Answer, Scripted
from tests.web.browser.sites import EVENT_SOURCE, SOCKET, Sites, serving_sites
from tests.web.pages import SCREENSHOTS
from tests.web.pages import site as served

pytestmark = pytest.mark.timeout(300)  # what is missing is installed first


TOASTS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Orders</title>
<style>body { font: 16px/1.5 system-ui; margin: 24px }</style><h1>Orders</h1>
<notify-toasts duration="600000"></notify-toasts><script type="module" src="/components.js"></script></html>"""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "chromium":
        yield chromium_of(request.getfixturevalue("context"))
        return
    with launched(request.param) as engine:
        yield engine


def opened(engine: Engine, site: str, options: str = "") -> Tab:
    tab = engine.tab()
    tab.go(site)
    until(tab, "window.ready")
    tab.js(f"start({options})")
    return tab


def connected(tab: Tab) -> None:
    until(tab, "got.client.status === 'connected'")


def waited(condition: object, seconds: float = 30) -> bool:
    """Whether a condition of the server becomes true in time."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_each_transport(engine: Engine, site: str, scripted: Scripted) -> None:
    """Events arrive once, in order, over connections that end."""
    for transport in ("fetch", "eventsource", "poll", "websocket"):
        scripted.log.clear()
        tab = opened(engine, site, f"{{share: false, transports: ['{transport}']}}")
        connected(tab)
        for number in range(20):
            scripted.push(number)
            if number % 7 == 5:
                scripted.end_streams()
                time.sleep(0.2)
        until(tab, "got.payloads.length >= 20")
        assert tab.js("got.payloads") == list(range(20)), transport
        assert tab.js("got.statuses.slice(0, 2)") == ["connecting", "connected"], transport
        tab.js("got.client.close()")


def test_tabs_share_a_stream(engine: Engine, site: str, scripted: Scripted) -> None:
    """Three tabs have one stream; the first is closed, and the others go on."""
    tabs = []
    for _ in range(3):
        tabs.append(opened(engine, site))
        connected(tabs[-1])
    scripted.push(0)
    for tab in tabs:
        until(tab, "got.payloads.length === 1")
    assert scripted.open == 1
    tabs.pop(0).close()
    for number in range(1, 10):
        scripted.push(number)
    for tab in tabs:
        until(tab, "got.payloads.length >= 10")
        assert tab.js("got.payloads") == list(range(10))
    assert waited(lambda: scripted.open == 1)


def test_a_reload_resumes(engine: Engine, site: str, scripted: Scripted) -> None:
    """Storage, and a page that is loaded again."""
    tab = opened(engine, site, "{storage: localStorage}")
    connected(tab)
    scripted.push(1)
    until(tab, "got.payloads.length === 1")
    tab.go("about:blank")
    scripted.push(2)
    tab.go(site)
    until(tab, "window.ready")
    tab.js("start({storage: localStorage})")
    until(tab, "got.payloads.length === 1")
    assert tab.js("got.payloads") == [2]
    tab.js("got.client.close()")


def test_going_back_resumes(engine: Engine, site: str, scripted: Scripted) -> None:
    """The page comes back from the back-forward cache, or is loaded again: it gets what it has missed."""
    tab = opened(engine, site, "{storage: localStorage}")
    connected(tab)
    scripted.push(1)
    until(tab, "got.payloads.length === 1")
    tab.js("(setTimeout(() => { location.href = '/other' }), 0)")
    until(tab, "location.pathname === '/other' && window.ready")
    assert waited(lambda: scripted.open == 0)
    scripted.push(2)
    tab.js("(setTimeout(() => history.back()), 0)")
    until(tab, "location.pathname === '/' && window.ready")
    tab.js("window.got ? 0 : start({storage: localStorage})")
    until(tab, "got.payloads.at(-1) === 2")
    assert tab.js("got.payloads") in ([1, 2], [2])
    connected(tab)


def test_a_silent_stream_is_left(engine: Engine, site: str, scripted: Scripted) -> None:
    """What holds streams back: the client polls."""
    scripted.always["/stream"] = Answer(hold=True)
    tab = opened(engine, site, "{share: false, heartbeat: 0.4}")
    connected(tab)
    scripted.push(1)
    until(tab, "got.payloads.length === 1")
    assert scripted.requests("/events")


def test_a_refusal_ends_it(engine: Engine, site: str, scripted: Scripted) -> None:
    """403: closed after one request."""
    scripted.always["/stream"] = Answer(403)
    tab = opened(engine, site, "{share: false}")
    until(tab, "got.client.status === 'closed'")
    assert tab.js("got.ends") == [{"reason": "forbidden"}]
    assert len(scripted.requests("/stream")) == 1


SENT = {"chromium": (False, False), "firefox": (True, False), "webkit": (True, True)}
"""Whether the handshake of a WebSocket has `Sec-Fetch-Site`, and whether a cookie without `SameSite` is sent along with
the requests of another site's page. In everything else the engines agree."""


def test_what_an_engine_sends(engine: Engine, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The headers that distinguish the application's own pages from those of another site, which reach nothing."""
    in_sockets, leaks = SENT[request.node.callspec.params["engine"]]
    with serving_sites(tmp_path) as sites:
        tab = engine.tab()
        tab.go(f"{sites.own}/page")
        sites.noted()
        assert attempted(tab, sites) == ["open", "notify.sync"]
        own = {"sec-fetch-site": "same-origin"}
        assert sites.noted()["noted"] == [
            {**STREAM, **COOKIE, **own},
            {**HANDSHAKE, **COOKIE, "origin": sites.own, **(own if in_sockets else {})},
        ]
        tab.go(f"{sites.stranger}/page")
        sites.noted()
        assert attempted(tab, sites) == ["refused", 1006]
        found = sites.noted()
        other = {"sec-fetch-site": "cross-site"}
        stranger = {"origin": sites.stranger, **(COOKIE if leaks else {})}
        assert found == {
            "asked": [],
            "noted": [
                {**STREAM, **stranger, **other},
                {**HANDSHAKE, **stranger, **(other if in_sockets else {})},
            ],
        }


STREAM = {"kind": "http", "method": "GET", "path": "/stream"}
HANDSHAKE = {"kind": "websocket", "method": "GET", "path": "/ws"}
COOKIE = {"cookie": "user=alice"}


def attempted(tab: Tab, sites: Sites) -> list[object]:
    """Return what the page that is open in a tab gets from the application's stream, and from its WebSocket."""
    tries = (f"({EVENT_SOURCE})('{sites.own}/stream')", f"({SOCKET})(['{sites.own}/ws', ['notify.v1']])")
    for name, tried in zip(("stream", "socket"), tries, strict=True):  # one after the other, as they are noted
        tab.js(f"({tried}.then((result) => {{ window.{name} = result; }}), 0)")
        until(tab, f"window.{name}")
    return [tab.js("window.stream"), tab.js("window.socket")]


def test_toasts_are_drawn(engine: Engine, request: pytest.FixtureRequest) -> None:
    """Three are visible, the rest is queued, hostile content is text; there is a picture of each engine to look at."""
    with served({"/": TOASTS}) as url:
        tab = engine.tab()
        tab.go(url)
        until(tab, "customElements.get('notify-toasts')")
        titles = ["Saved", "<img src=x onerror=alert(1)>", "Payment failed", "Queued"]
        for number, (title, kind) in enumerate(zip(titles, ("success", "info", "error", "warning"), strict=True)):
            payload = {"title": title, "message": "A line of text", "type": kind, "action_url": "/orders"}
            event = {"id": f"{number + 1}-0", "user": "alice", "type": "generic", "payload": payload}
            detail = f"{{detail: {json.dumps(event)}, bubbles: true, cancelable: true}}"
            tab.js(f"document.dispatchEvent(new CustomEvent('notify', {detail}))")
        root = "document.querySelector('notify-toasts').shadowRoot"
        until(tab, f"{root}.querySelectorAll('[part~=toast]:not([inert])').length === 3")
        until(tab, f"{root}.getAnimations().every((each) => each.playState === 'finished')")
        shown = tab.js(f"[...{root}.querySelectorAll('[part~=title]')].map((each) => each.textContent)")
        assert sorted(shown) == sorted(titles[:3])
        assert tab.js(f"{root}.querySelectorAll('img').length") == 0
        boxes = tab.js(
            f"[...{root}.querySelectorAll('[part~=toast]')].map((each) => each.getBoundingClientRect())"
            ".map((box) => [box.left, box.top, box.right, box.bottom])"
        )
        width, height = tab.js("[innerWidth, innerHeight]")
        assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = request.node.callspec.params["engine"]
        tab.picture(str(SCREENSHOTS / f"toasts-{name}.png"))
        assert (SCREENSHOTS / f"toasts-{name}.png").read_bytes().startswith(b"\x89PNG")
