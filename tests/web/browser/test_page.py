"""The client as a part of a page: handlers, DOM events, visibility, and what surrounds a page's life."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.web.browser.conftest import opened, until
from tests.web.browser.scripted import Answer, Scripted

SET = """({state, focus = true}) => {
  Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});
  document.hasFocus = () => focus;
  document.dispatchEvent(new Event('visibilitychange', {bubbles: true}));
  window.dispatchEvent(new Event(focus ? 'focus' : 'blur'));
}"""


def start(page: Page, **options: Any) -> None:
    page.evaluate("options => start(options)", {"share": False, **options})


def status(page: Page, wanted: str) -> None:
    until(page, f"got.client.status === '{wanted}'")


def test_an_error_of_a_handler_reaches_no_other(page: Page, scripted: Scripted) -> None:
    """It is reported as an uncaught error is, and everything else goes on."""
    page.evaluate("window.errors = []; window.reportError = (error) => errors.push(error.message); 0")
    page.evaluate(
        """() => {
          start({share: false});
          for (const name of ['note', '*', 'sync', 'status', 'gap', 'end'])
            got.client.on(name, () => { throw new Error(name); });
          window.after = [];
          got.client.on('note', ({payload}) => after.push(payload));
        }"""
    )
    status(page, "connected")
    scripted.push(1)
    scripted.push(2)
    until(page, "got.payloads.length === 2")
    assert page.evaluate("after") == [1, 2]
    assert page.evaluate("errors") == ["sync", "status", "note", "*", "note", "*"]


def test_a_handler_can_be_removed(page: Page, scripted: Scripted) -> None:
    """`on` returns what removes the handler, also while it runs; a handler of a type gets only that."""
    start(page)
    status(page, "connected")
    page.evaluate(
        """() => {
          window.once = [];
          const remove = got.client.on('note', ({payload}) => { once.push(payload); remove(); });
        }"""
    )
    scripted.push(1, type="other")
    scripted.push(2)
    scripted.push(3)
    until(page, "got.payloads.length === 3")
    assert page.evaluate("once") == [2]


def test_dom_events(page: Page, scripted: Scripted) -> None:
    """`notify` on the document, cancelable, with the event and the client; `notify-status` for each status."""
    page.evaluate(
        """() => {
          window.heard = [];
          document.addEventListener('notify', (event) => {
            event.preventDefault();
            heard.push([event.detail.payload, event.cancelable, event.client === got.client]);
          });
          window.addEventListener('notify', (event) => heard.push(event.defaultPrevented));
          document.addEventListener('notify-status', (event) => heard.push(event.detail));
        }"""
    )
    start(page)
    status(page, "connected")
    scripted.push(7)
    until(page, "got.payloads.length === 1")
    page.evaluate("got.client.close()")
    assert page.evaluate("heard") == ["connected", [7, True, True], True, "closed"]


def test_visible(page: Page, scripted: Scripted) -> None:
    """`when: "visible"`: no connection while the page is hidden; shown again, it gets what it has missed."""
    start(page, when="visible")
    status(page, "connected")
    page.evaluate(SET, {"state": "hidden"})
    status(page, "paused")
    page.evaluate("start({share: false}, 'other')")
    until(page, "other.client.status === 'connected'")
    scripted.push(1)
    until(page, "other.payloads.length === 1")
    scripted.settle(1)
    assert page.evaluate("got.payloads") == []
    page.evaluate(SET, {"state": "visible", "focus": False})
    until(page, "got.payloads.length === 1")
    status(page, "connected")
    assert page.evaluate("got.statuses") == ["connecting", "connected", "paused", "reconnecting", "connected"]


def test_focused(page: Page, scripted: Scripted) -> None:
    """`when: "focused"`: connected with the focus, and not without it."""
    page.evaluate(SET, {"state": "visible", "focus": False})
    start(page, when="focused")
    assert page.evaluate("got.client.status") == "paused"
    assert scripted.requests("/stream") == []
    page.evaluate(SET, {"state": "visible", "focus": True})
    status(page, "connected")
    page.evaluate(SET, {"state": "visible", "focus": False})
    status(page, "paused")


def test_always_stays_and_trusts_no_connection_after_a_long_time(page: Page, scripted: Scripted) -> None:
    """Hidden, the stream goes on. After more than 30 s it is opened again when the page is shown, after less not."""
    start(page)
    status(page, "connected")
    page.evaluate(SET, {"state": "hidden"})
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    page.evaluate(SET, {"state": "visible"})
    scripted.push(2)
    until(page, "got.payloads.length === 2")
    assert page.evaluate("got.statuses") == ["connecting", "connected"]
    assert len(scripted.requests("/stream")) == 1
    page.evaluate(SET, {"state": "hidden"})
    page.evaluate("const now = Date.now; Date.now = () => now() + 31000")
    page.evaluate(SET, {"state": "visible"})
    until(page, "got.statuses.filter((s) => s === 'connected').length === 2")
    assert len(scripted.requests("/stream")) == 2


def test_a_timer_that_is_late_does_not_end_a_connection(page: Page, scripted: Scripted) -> None:
    """A page that slept finds its timer late: it waits for what the connection has to say first."""
    scripted.heartbeat = 0.4
    start(page, heartbeat=0.4)
    status(page, "connected")
    page.evaluate("for (const end = Date.now() + 3000; Date.now() < end; );")
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    assert page.evaluate("got.statuses") == ["connecting", "connected"]
    assert len(scripted.requests("/stream")) == 1


@pytest.mark.parametrize("sharing", ["worker", "lock", "alone"])
def test_a_frozen_page_lets_go(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """`freeze` is the last a page hears: it closes its part, another tab takes over, and `resume` brings it back."""
    if sharing == "lock":
        context.add_init_script("delete window.SharedWorker;")
    first, second = opened(context, site), opened(context, site)
    for page in (first, second):
        page.evaluate("share => start({share})", sharing != "alone")
        status(page, "connected")
    first.evaluate("document.dispatchEvent(new Event('freeze'))")
    assert first.evaluate("got.client.status") == "paused"
    scripted.push(1)
    until(second, "got.payloads.length === 1")
    assert first.evaluate("got.payloads") == []
    first.evaluate("document.dispatchEvent(new Event('resume'))")
    until(first, "got.payloads.length === 1")
    status(first, "connected")
    assert scripted.open == (2 if sharing == "alone" else 1)


def test_the_module_knows_where_it_came_from(page: Page, scripted: Scripted) -> None:
    """Without a URL it connects to the mount that it was loaded from; several clients are independent."""
    page.evaluate("record(connect(), 'got'); record(connect('/notify/?address=team', {share: false}), 'other')")
    status(page, "connected")
    until(page, "other.client.status === 'connected'")
    assert page.evaluate("clients.size") == 2
    assert [seen.query for seen in scripted.requests("/stream")] in (
        [{}, {"address": "team"}],
        [{"address": "team"}, {}],
    )
    page.evaluate("got.client.close(); got.client.close()")
    scripted.push(1)
    until(page, "other.payloads.length === 1")
    assert page.evaluate("[clients.size, got.payloads.length, got.statuses.at(-1)]") == [1, 0, "closed"]


@pytest.mark.parametrize("options", ["{transports: ['carrier pigeon']}", "{transports: []}", "{when: 'never'}"])
def test_options_that_do_not_exist(page: Page, options: str) -> None:
    """A mistake is an error at once."""
    message = page.evaluate(
        f"(() => {{ try {{ connect('/notify', {options}); }} catch (e) {{ return e.message; }} }})()"
    )
    assert message.startswith("connect: unknown")


@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_in_the_console(page: Page, scripted: Scripted, site: str, code: int, share: bool) -> None:
    """What the server answers instead of a stream is warned of in the page, once for each status."""
    warnings = warnings_of(page)
    scripted.always["/stream"] = Answer(status=code)
    start(page, transports=["fetch"], share=share)
    if code == 404:
        wait_for(page, lambda: len(scripted.requests("/stream")) > 1)
        scripted.always["/stream"] = Answer(status=503, headers={"retry-after": "1"})
        wait_for(page, lambda: len(warnings) > 1)
        del scripted.always["/stream"]
        status(page, "connected")
    else:
        status(page, "closed")
    wait_for(page, lambda: bool(warnings))
    assert warnings == [f"notify: {site}/notify answered {each}" for each in ([404, 503] if code == 404 else [code])]


@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
def test_a_buffer_is_in_the_console(page: Page, scripted: Scripted, site: str, share: bool) -> None:
    """Middleware or a proxy that holds a stream back: the client goes on by polling, and the page says why, once."""
    warnings = warnings_of(page)
    scripted.always["/stream"] = Answer(hold=True)
    start(page, share=share, heartbeat=0.3)
    status(page, "connected")
    wait_for(page, lambda: bool(warnings))
    assert len(scripted.requests("/stream")) > 1
    assert warnings == [f"notify: {site}/notify answered without data: is it buffered?"]


def test_what_is_normal_is_not_in_the_console(page: Page, scripted: Scripted) -> None:
    """Credentials that are renewed, a stream that is cut, and a user who was signed out."""
    warnings = warnings_of(page)
    scripted.next("/stream", Answer(status=401))
    page.evaluate("start({share: false, transports: ['fetch'], auth: async () => 'ticket'})")
    status(page, "connected")
    scripted.end_streams()
    until(page, "got.statuses.filter((s) => s === 'connected').length === 2")
    scripted.next("/stream", Answer(status=204))
    scripted.end_streams()
    status(page, "closed")
    assert warnings == []


def warnings_of(page: Page) -> list[str]:
    """What a page warns of in the console from now on."""
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    return warnings


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until something outside of the page is true."""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(page.evaluate("JSON.stringify(window.got)"))


def test_a_storage_that_fails_is_no_obstacle(page: Page, scripted: Scripted) -> None:
    """A storage that is full, or forbidden: reported, and the client works without it."""
    page.evaluate(
        """() => {
          window.errors = 0;
          window.reportError = () => errors++;
          const fail = () => { throw new Error('forbidden'); };
          start({share: false, storage: {getItem: fail, setItem: fail}});
        }"""
    )
    status(page, "connected")
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    assert page.evaluate("errors") > 1


def test_a_server_may_import_the_module() -> None:
    """Rendering on a server: importing has no effect, and needs nothing of a browser."""
    path = json.dumps((files("notify.web") / "client" / "client.js").as_uri())  # type: ignore[attr-defined]
    script = f"const {{connect, clients}} = await import({path}); console.log(typeof connect, clients.size)"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.stdout, done.returncode) == ("function 0\n", 0), done.stderr
