"""The custom elements between two states: a toast that leaves or waits, an element that is moved, another client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.pages import chromium, site
from tests.web.test_components import (
    FAKE,
    LASTING,
    PAGE,
    SHOWN,
    STUB,
    TOAST,
    at,
    push,
    show,
    status,
    stop_the_clock,
    titles,
)

pytestmark = pytest.mark.slow

FOCUSED = "() => document.querySelector('notify-toasts').shadowRoot.activeElement?.part[0] ?? document.activeElement.id"

REFUSING = """() => { window.refuse = [];
  window.client = { inbox: () => ({ subscribe() {}, close() {},
    dismiss: () => new Promise((_, fail) => refuse.push(fail)) }) }; }"""
"""A client whose inbox refuses a dismissal when the test calls `refuse`."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pages = {"/": PAGE.replace("ATTRIBUTES", LASTING), "/server": PAGE.replace("ATTRIBUTES", 'dismiss="server"')}
    with site(pages) as started:
        yield started


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with at(browser, url) as opened:
        yield opened


def emit(page: Page, *events: dict[str, Any]) -> None:
    """Emit events in one task, as a transport does with events that arrive together."""
    page.evaluate(
        """events => { for (const each of events) {
        const detail = { user: 'alice', type: 'generic', ...each };
        document.dispatchEvent(Object.assign(new CustomEvent('notify', { detail, cancelable: true }),
          { client: window.client })); } }""",
        events,
    )


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"{number}-0", "payload": {"title": f"{number}"}, "item": {}, **more}


@pytest.mark.parametrize("target", [{"ids": ["1-0"]}, {"group": "a"}, {"up_to": "1-0"}])
def test_an_item_that_comes_together_with_its_dismissal(page: Page, target: dict[str, Any]) -> None:
    """After a reconnect, an item that was dismissed elsewhere is not shown; one that came later is."""
    emit(page, item(1, group="a"), {"id": "2-0", "type": "notify.dismissed", "payload": target}, item(3))
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["3"])


@pytest.mark.parametrize("meta", [{}, {"notification": "n-1"}])
def test_a_dismissal_that_is_refused(browser: Browser, url: str, meta: dict[str, str]) -> None:
    """The toast comes back, also that of an item from a dispatcher."""
    with at(browser, f"{url}/server") as page:
        page.evaluate(REFUSING)
        emit(page, item(1, meta=meta))
        page.locator(f"{SHOWN} [part=close]").click()
        page.wait_for_function("refuse.length === 1")
        expect(page.locator(TOAST)).to_have_count(0)
        page.evaluate("refuse[0]()")
        assert titles(page) == ["1"]


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_dismissal_that_is_refused_late(browser: Browser, url: str, is_shown: bool) -> None:
    """A newer toast of its group, shown or queued, stays, and the refused one does not come back."""
    with at(browser, f"{url}/server") as page:
        page.evaluate(REFUSING)
        emit(page, item(1, group="a"))
        page.locator(f"{SHOWN} [part=close]").click()
        page.wait_for_function("refuse.length === 1")
        expect(page.locator(TOAST)).to_have_count(0)
        others = [] if is_shown else [item(number) for number in (2, 3, 4)]
        emit(page, *others, item(5, group="a"))
        page.evaluate("refuse[0]()")
        assert page.evaluate("document.querySelector('notify-toasts').show({ payload: { title: 'last' } })")
        for each in [*others, item(5)]:
            expect(page.locator(f"{SHOWN} [part=title]").first).to_have_text(each["payload"]["title"])
            page.locator(f"{SHOWN} [part=close]").first.evaluate("node => node.click()")
        expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["last"])


def test_taken_out_while_a_toast_leaves(page: Page) -> None:
    """An element outside the page runs no timer; what waits is shown when the element is put back."""
    for number in range(1, 6):
        push(page, number, title=f"{number}")
    stop_the_clock(page)
    page.evaluate(
        """() => { window.timers = new Set(); const { setInterval: set, clearInterval: clear } = window;
        window.setInterval = (...given) => { const id = set(...given); timers.add(id); return id; };
        window.clearInterval = (id) => { timers.delete(id); clear(id); };
        window.toasts = document.querySelector('notify-toasts');
        toasts.shadowRoot.querySelector('[part=close]').click(); toasts.remove(); }"""
    )
    page.clock.run_for(700_000)
    assert page.evaluate("timers.size") == 0
    page.evaluate("toasts.show({ payload: { title: '6' } })")
    assert page.evaluate("timers.size") == 0
    page.evaluate("document.body.append(toasts)")
    assert titles(page) == ["2", "3", "4"]
    page.clock.run_for(600_500)
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["5", "6"])


def test_shown_before_it_is_in_the_page(page: Page) -> None:
    """An element that a script has created shows what it was given once it is in the page."""
    page.evaluate(
        """() => { window.made = document.createElement('notify-toasts'); made.show({ payload: { title: 'early' } });
        document.querySelector('notify-toasts').replaceWith(made); }"""
    )
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["early"])


def test_the_focus_in_a_toast_that_has_no_place(page: Page) -> None:
    """A narrower window sends a toast back to the queue: the focus moves on, as when a toast leaves."""
    for number in range(1, 4):
        show(page, number, "info", title=f"{number}")
    page.locator(f"{SHOWN} [part=close]").nth(2).focus()
    page.set_viewport_size({"width": 700, "height": 700})
    expect(page.locator(TOAST)).to_have_count(2)
    assert page.evaluate(FOCUSED) == "close"


def test_the_focus_on_a_link_that_goes(page: Page) -> None:
    """If an update removes the focused link, the focus stays in the toast."""
    push(page, 1, group="a", title="1", action_url="/a")
    page.keyboard.press("F8")
    assert page.evaluate(FOCUSED) == "action"
    push(page, 2, group="a", title="2")
    page.evaluate("new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame)).then(() => 0)")
    assert page.evaluate(FOCUSED) == "close"


def test_the_focus_on_a_link_that_goes_where_there_is_no_button(page: Page) -> None:
    """With `dismiss="none"` nothing else in the toast can have the focus: it returns to where it was."""
    page.evaluate("document.querySelector('notify-toasts').setAttribute('dismiss', 'none')")
    push(page, 1, group="a", title="1", action_url="/a")
    page.locator("#before").focus()
    page.keyboard.press("F8")
    assert page.evaluate(FOCUSED) == "action"
    push(page, 2, group="a", title="2")
    assert page.evaluate(FOCUSED) == "before"


def test_the_focus_returns_to_where_it_was_last(page: Page) -> None:
    """It returns to the element that had it most recently, not to that of an earlier visit."""
    page.evaluate("document.querySelector('notify-toasts').insertAdjacentHTML('beforebegin', '<a href id=last>x</a>')")
    show(page, 1, "info", title="1")
    page.locator("#before").focus()
    page.keyboard.press("F8")
    page.evaluate("document.querySelector('notify-toasts').shadowRoot.activeElement.blur()")
    page.locator("#last").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "close"
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "last"


# -- browser notifications and the script element


def hidden(page: Page) -> None:
    """Hide a page that may show browser notifications, and stop its clock."""
    page.evaluate(FAKE.replace("PERMISSION", "granted").replace("HIDDEN", "true"))
    stop_the_clock(page)


def test_a_browser_notification_of_what_was_dismissed(page: Page) -> None:
    """An item that is dismissed elsewhere while the tab asks for a visible one has no notification."""
    hidden(page)
    emit(page, item(1), item(2))
    emit(page, {"id": "3-0", "type": "notify.dismissed", "payload": {"ids": ["1-0"]}})
    page.clock.run_for(1_000)
    assert page.evaluate("made.map(({ title }) => title)") == ["2"]


def test_one_browser_notification_for_all_tabs(browser: Browser, url: str) -> None:
    """Hidden tabs show an event under the same tag, even without an id, so the browser shows one notification."""
    opened = at(browser, url)
    tags = []
    with opened as page:
        other = opened.context.new_page()
        other.goto(url)
        other.wait_for_function("!!customElements.get('notify-status')")
        hidden(page)
        hidden(other)
        for each in (page, other):
            push(each, None, title="Saved")
            each.clock.run_for(1_000)
            tags += each.evaluate("made.map(({ tag }) => tag)")
    assert tags == ["2026-11-29T00:00:00Z"] * 2


def test_storage_that_is_blocked(browser: Browser) -> None:
    """Reading `localStorage` throws in a browser that blocks it: the page connects without."""
    block = """<script>Object.defineProperty(window, 'localStorage',
        { get() { throw new DOMException('denied', 'SecurityError'); } })</script>"""
    own = block + PAGE.replace(' src="/c', ' data-url="/notify" data-storage="local" src="/c')
    with site({"/": own, "/client.js": STUB}) as url, at(browser, url) as page:
        page.wait_for_function("!!window.notifyClient")
        assert page.evaluate("notifyClient.given[1].storage === undefined")


# -- status


def test_a_status_that_is_moved(page: Page) -> None:
    """It turns red, or disappears, as if it had not been moved."""
    box = page.locator("notify-status [part~=status]")
    move = "() => document.body.prepend(document.querySelector('notify-status'))"
    stop_the_clock(page)
    status(page, "connecting")
    page.evaluate(move)
    page.clock.run_for(600)
    expect(box).to_have_text("Disconnected")
    status(page, "connected")
    page.evaluate(move)
    page.clock.run_for(500)
    expect(box).to_be_hidden()


def test_a_status_that_was_out_of_the_page(page: Page) -> None:
    """It shows the state that its client has now, although it missed the change."""
    page.evaluate(
        """() => { const client = { status: 'connecting' }, element = document.querySelector('notify-status');
        document.dispatchEvent(Object.assign(new CustomEvent('notify-status', { detail: client.status }), { client }));
        element.remove(); client.status = 'connected'; document.body.append(element); }"""
    )
    expect(page.locator("notify-status [part~=status]")).to_have_text("Connected")


CLIENTS = """() => { const element = document.querySelector('notify-status');
  window.of = (status) => ({ status, on: () => () => 0 }); element.client = of('CLOSED'); }"""


def test_a_status_of_another_client(page: Page) -> None:
    """The next client starts without the state of the previous one; without a client, nothing is shown."""
    box = page.locator("notify-status [part~=status]")
    page.evaluate(CLIENTS.replace("CLOSED", "closed"))
    expect(box).to_have_text("Disconnected")
    page.evaluate("document.querySelector('notify-status').client = of('connecting')")
    expect(box).to_have_text("Connecting")
    page.evaluate("document.querySelector('notify-status').client = null")
    expect(box).to_be_hidden()
    status(page, "connecting")
    expect(box).to_have_text("Connecting")


def test_a_client_that_is_set_before_the_module_is_there(browser: Browser, url: str) -> None:
    """A script may set the property of an element that is not defined yet."""
    early = "<script>document.querySelector('notify-status').client = { status: 'paused', on: () => () => 0 }</script>"
    pages = {"/": PAGE.replace("ATTRIBUTES", "").replace("<script", f"{early}<script", 1)}
    with site(pages) as own, at(browser, own) as page:
        expect(page.locator("notify-status [part~=status]")).to_have_text("On hold")
