"""The custom elements in a real browser: toasts and status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.pages import CLIENT, PATIENCE, chromium, screenshot, settled, site
from tests.web.servers import WebServer

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Components</title>
<style>body { font: 16px/1.5 system-ui; margin: 24px; } main { max-width: 60ch; }</style>
<main><h1>Orders</h1><p>A page of an application.</p><button id="before">Before</button></main>
<notify-toasts ATTRIBUTES></notify-toasts>
<notify-status hide-after="400" fail-after="500" label-paused="On hold"></notify-status>
<script type="module" src="/components.js"></script>
</html>"""

POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; require-trusted-types-for 'script'"
"""What a careful application sends; the inline style is that of the page above."""

AUTO = 'data-url="/notify" data-when="visible" data-storage="session"'
STUB = "export const connect = (...given) => ({ given });"
"""Stands for client.js, which has its own tests."""

TOAST = "[part~=toast]"
SHOWN = "[part~=toast]:not([inert])"
LASTING = 'duration="600000"'
"""Where the time of a toast is not what is tested, it does not run out, however slow the machine is."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pages = {
        "/": PAGE.replace("ATTRIBUTES", LASTING),
        "/quick": PAGE.replace("ATTRIBUTES", 'duration="600" duration-ephemeral="300" duration-error="0"'),
        "/limits": PAGE.replace("ATTRIBUTES", LASTING + ' limit="5 1" types="order.paid"'),
        "/bare": PAGE.replace("ATTRIBUTES", 'dismiss="none" duration="0"'),
        "/server": PAGE.replace("ATTRIBUTES", LASTING + ' dismiss="server" position="top-start" label="Meldungen"'),
        "/auto/": PAGE.replace("ATTRIBUTES", "").replace('src="/components.js"', 'src="components.js" ' + AUTO),
        "/auto/components.js": (CLIENT / "components.js").read_text(encoding="utf-8"),
        "/auto/client.js": STUB,
        "/rtl": PAGE.replace("ATTRIBUTES", LASTING).replace('lang="en"', 'lang="ar" dir="rtl"'),
    }
    with site(pages, {"Content-Security-Policy": POLICY}) as started:
        yield started


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with at(browser, url) as opened:
        yield opened


class at:
    """A page in a context of its own; its errors fail the test."""

    def __init__(self, browser: Browser, url: str, width: int = 1200, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 720}, **options)
        self.url = url
        self.errors: list[str] = []

    def __enter__(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.url)
        if self.url != "about:blank":
            page.wait_for_function("!!customElements.get('notify-status')")
        return page

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        assert kind or not self.errors, self.errors


def push(page: Page, number: int | None, type: str = "generic", group: str | None = None, **payload: Any) -> bool:
    """Emit what client.js emits for an event; returns whether a listener cancelled it."""
    event = {"user": "alice", "type": type, "payload": payload, "timestamp": "2026-11-29T00:00:00Z"}
    if number is not None:
        event["id"] = f"{number}-0"
    if group is not None:
        event["group"] = group
    emit = """event => !document.dispatchEvent(
        new CustomEvent('notify', { detail: event, bubbles: true, cancelable: true }))"""
    return bool(page.evaluate(emit, event))


def stop_the_clock(page: Page) -> None:
    """Time passes in the page only by `page.clock.run_for`; animations go on."""
    page.clock.install(time=1_000)
    page.clock.pause_at(2_000)


def titles(page: Page) -> list[str]:
    return page.locator(f"{SHOWN} [part=title]").all_text_contents()


def test_a_toast_shows_what_the_event_says(page: Page) -> None:
    """Title, message and link of a `generic` event are shown; other types and empty payloads are not."""
    push(page, 1, title="Export ready", message="42 orders", action_url="/exports/7", action_label="Download")
    push(page, 2, type="order.paid", title="Not for toasts")
    push(page, 3)
    toast = page.locator(TOAST)
    expect(toast).to_have_count(1)
    expect(toast.locator("[part=title]")).to_have_text("Export ready")
    expect(toast.locator("[part=message]")).to_have_text("42 orders")
    link = page.get_by_role("link", name="Download")
    assert link.get_attribute("href") == f"{page.url}exports/7"
    screenshot(page, "toast-one")


@pytest.mark.parametrize(
    ("kind", "role"),
    [("info", "status"), ("success", "status"), ("warning", "alert"), ("error", "alert"), ("<b>", "status")],
)
def test_roles(page: Page, kind: str, role: Any) -> None:
    """Errors and warnings interrupt a screen reader, everything else waits; all stand in a named region."""
    show(page, 1, kind, title="Hello")
    region = page.get_by_role("region", name="Notifications")
    toast = region.get_by_role(role)
    expect(toast).to_have_count(1)
    expect(toast).to_contain_text("Hello")
    assert toast.get_attribute("aria-atomic") == "true"
    expect(page.get_by_role("button", name="Dismiss")).to_be_visible()


@pytest.mark.parametrize(("width", "limit"), [(1200, 3), (768, 3), (760, 2), (400, 2)])
def test_ten_events_queue(browser: Browser, url: str, width: int, limit: int) -> None:
    """Three are visible from 768 px and two below; the rest follow in the order of their arrival, none twice."""
    with at(browser, url, width) as page:
        for number in range(1, 11):
            push(page, number, title=f"Event {number}")
            push(page, number, title=f"Event {number}")  # another client of the page has the same event
        expect(page.locator(TOAST)).to_have_count(limit)
        most = "() => document.querySelector('notify-toasts').shadowRoot.querySelectorAll('[part~=toast]').length"
        seen: list[str] = []
        for number in range(1, 11):
            first = page.locator(SHOWN).first
            expect(first.locator("[part=title]")).to_have_text(f"Event {number}")
            seen += [title for title in titles(page) if title not in seen]
            assert page.evaluate(most) <= limit
            first.get_by_role("button").evaluate("node => node.click()")  # the toasts move, and so would a pointer miss
        assert seen == [f"Event {number}" for number in range(1, 11)]
        expect(page.locator(TOAST)).to_have_count(0)


@pytest.mark.parametrize("width", [1200, 760, 400])
def test_layout(browser: Browser, url: str, width: int) -> None:
    """In the corner, as wide as it should be; below 600 px over the full width. Nothing overflows."""
    long = "A message that is long enough to need several lines, with https://example.com/" + "a" * 120
    with at(browser, url, width) as page:
        for number, kind in enumerate(["success", "error", "warning"], 1):
            show(page, number, kind, title=f"Deployment {kind}", message=long, action_url="/deployments/1")
        settled(page.locator(TOAST))
        boxes = [toast.bounding_box() for toast in page.locator(TOAST).all()]
        assert len(boxes) == (3 if width >= 768 else 2)
        for box in boxes:
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 720
            if width < 600:
                assert box["width"] == width - 16
            else:
                assert box["width"] == 372
                assert box["x"] + box["width"] == width - 20
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        screenshot(page, f"toasts-{width}")
        page.emulate_media(color_scheme="dark")
        dark = page.locator(TOAST).first.evaluate("node => getComputedStyle(node).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.locator(TOAST).first.evaluate("node => getComputedStyle(node).backgroundColor") != dark


@pytest.mark.parametrize(("width", "height"), [(1200, 720), (640, 360), (320, 568)])
def test_long_texts_leave_every_button_in_reach(browser: Browser, url: str, width: int, height: int) -> None:
    """Whatever events contain, and in a small or enlarged window, each toast keeps a part of it, with its button."""
    long = {"title": "W" * 300, "message": "x" * 10_000, "action_url": "/a", "action_label": "\u202e" + "y" * 400}
    with at(browser, url, width) as page:
        page.set_viewport_size({"width": width, "height": height})
        for number, kind in enumerate(["success", "error", "warning"], 1):
            show(page, number, kind, **long)
        settled(page.locator(TOAST))
        screenshot(page, f"toasts-long-{width}")
        for box in [button.bounding_box() for button in page.get_by_role("button", name="Dismiss").all()]:
            assert box is not None
            assert box["x"] + box["width"] <= width
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height


def test_forced_colours(browser: Browser, url: str) -> None:
    """With the colours of a contrast theme, the bar of a toast and the dot of the status still show what they say."""
    with at(browser, url, forced_colors="active") as page:
        show(page, 1, "success", title="Copying", progress=0.4)
        status(page, "connected")
        colours = "node => [getComputedStyle(node).backgroundColor, getComputedStyle(document.body).backgroundColor]"
        for part in ("notify-toasts [part=progress]", "notify-status [part=dot]"):
            own, page_colour = page.locator(part).evaluate(colours)
            assert own not in (page_colour, "rgb(255, 255, 255)")
        settled(page.locator(TOAST))
        screenshot(page, "toasts-contrast")


def show(page: Page, number: int, kind: str, **payload: Any) -> None:
    """Show a toast of one type."""
    emit = """event => void document.dispatchEvent(
        new CustomEvent('notify', { detail: event, bubbles: true, cancelable: true }))"""
    page.evaluate(emit, {"id": f"{number}-0", "user": "alice", "type": "generic", "payload": {"type": kind, **payload}})


def test_a_narrow_window_shows_fewer(page: Page) -> None:
    """A window that becomes narrow sends the newest back to the front of the queue; nothing is lost."""
    for number in range(1, 5):
        show(page, number, "info", title=f"{number}")
    expect(page.locator(TOAST)).to_have_count(3)
    page.set_viewport_size({"width": 700, "height": 700})
    expect(page.locator(TOAST)).to_have_count(2)
    page.set_viewport_size({"width": 900, "height": 700})
    expect(page.locator(TOAST)).to_have_count(3)
    assert titles(page) == ["1", "2", "3"]


def test_limit_and_types_by_attribute(browser: Browser, url: str) -> None:
    """`limit` has a number for wide windows and one for narrow ones; `types` adds further types."""
    with at(browser, f"{url}/limits") as page:
        for number in range(1, 8):
            push(page, number, type="order.paid", title=f"{number}")
        expect(page.locator(TOAST)).to_have_count(5)
        page.set_viewport_size({"width": 500, "height": 700})
        expect(page.locator(TOAST)).to_have_count(1)


def test_dark_and_custom_properties(browser: Browser, url: str) -> None:
    """Dark colours follow the system; custom properties and parts change everything from outside."""
    with at(browser, url, color_scheme="dark") as page:
        show(page, 1, "success", title="Saved", message="All 12 files")
        show(page, 2, "error", title="Not saved", message="The disk is full", action_url="https://example.com/help")
        toast = page.locator(TOAST).first
        assert toast.evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(29, 32, 39)"
        settled(page.locator(TOAST))
        screenshot(page, "toasts-dark")
        page.add_style_tag(
            content="notify-toasts { --notify-background: rgb(1, 2, 3) } notify-toasts::part(title) { color: red }"
        )
        assert toast.evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(1, 2, 3)"
        title = toast.locator("[part=title]")
        assert title.evaluate("node => getComputedStyle(node).color") == "rgb(255, 0, 0)"


def test_right_to_left(browser: Browser, url: str) -> None:
    """In a right-to-left page the toasts stand at the left, and the button at the left of each."""
    with at(browser, f"{url}/rtl") as page:
        show(page, 1, "success", title="تم الحفظ", message="تم حفظ جميع الملفات", action_url="/a")
        toast = page.locator(TOAST)
        settled(page.locator(TOAST))
        box, close = toast.bounding_box(), page.get_by_role("button", name="Dismiss").bounding_box()
        assert box is not None
        assert close is not None
        assert box["x"] == 20
        assert close["x"] < box["x"] + 40
        screenshot(page, "toasts-rtl")


HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.mark.parametrize(
    "target",
    [
        "javascript:document.title='owned'", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>", "vbscript:x", "blob:x", "//evil.example/", "\\\\evil.example",
        "/\\evil.example", "file:///etc/passwd", "http://[", 7, {"a": 1}, "",
    ],
)  # fmt: skip
def test_hostile_content_stays_text(page: Page, target: object) -> None:
    """Markup of a payload is shown as text, and a URL that is neither http(s) nor of this origin is not a link."""
    show(page, 1, "info", title=HOSTILE, message=HOSTILE, action_url=target, action_label=HOSTILE)
    toast = page.locator(TOAST)
    expect(toast.locator("[part=title]")).to_have_text(HOSTILE)
    expect(toast.locator("[part=message]")).to_have_text(HOSTILE)
    assert toast.locator("img, script").count() == 0
    assert toast.locator("a[href]").count() == 0
    expect(toast.locator("a")).to_be_hidden()
    assert page.title() == "Components"


@pytest.mark.parametrize(
    ("target", "opens"),
    [("/a?b#c", ""), ("a", ""), ("https://example.com/x", "_blank"), ("HTTP://example.com", "_blank")],
)
def test_links(page: Page, target: str, opens: str) -> None:
    """Links of this origin open in this tab, others in a new one that knows nothing of it."""
    show(page, 1, "info", title="Look", action_url=target)
    link = page.get_by_role("link", name="Open")
    assert link.get_attribute("target") == opens
    assert link.get_attribute("rel") == "noopener noreferrer"


@pytest.mark.parametrize(
    ("payload", "leads"),
    [({"url": "/a"}, "/a"), ({"url": "/a", "action_url": "/b"}, "/b"), ({"url": "javascript:alert(1)"}, None)],
)
def test_a_link_may_be_called_url(page: Page, payload: dict[str, str], leads: str | None) -> None:
    """`url` is read where there is no `action_url`, by the same rules."""
    show(page, 1, "info", title="Look", **payload)
    link = page.locator(TOAST).locator("[part=action]")
    found = link.get_attribute("href")
    assert found == (leads and page.evaluate("path => new URL(path, location).href", leads))


@pytest.mark.parametrize("value", [7, True, ["a", {"b": 1}], {"a": "<b>"}])
def test_values_of_any_type_are_text(page: Page, value: Any) -> None:
    """A title that is not a string is shown as JSON would be, without an error."""
    show(page, 1, "info", title=value, message=value)
    expect(page.locator(TOAST)).to_have_count(1)
    assert titles(page) == [page.evaluate("value => JSON.stringify(value)", value)]


def test_an_alert_that_is_off(page: Page) -> None:
    """The event is for the list alone: no toast, and it takes no place; another value of the meta changes nothing."""
    emit = """([id, meta]) => document.dispatchEvent(new CustomEvent('notify', { cancelable: true, detail: {
        id, user: 'alice', type: 'generic', group: 'job', payload: { title: id }, meta } }))"""
    page.evaluate(emit, ["1-0", {}])
    page.evaluate(emit, ["2-0", {"alert": "off"}])
    expect(page.locator(TOAST)).to_have_count(1)
    assert titles(page) == ["1-0"]
    page.evaluate(emit, ["3-0", {"alert": "on"}])
    assert titles(page) == ["3-0"]


def test_group_replaces_in_place(page: Page) -> None:
    """An event of a group takes the place of the one before it, visible or queued, and gets its type and role."""
    for number in range(1, 6):
        push(page, number, group="job" if number in (2, 5) else f"g{number}", title=f"{number}")
    expect(page.locator(TOAST)).to_have_count(3)
    assert titles(page) == ["1", "5", "3"]
    push(page, 6, group="g4", title="six")
    show(page, 7, "info", title="7")
    page.evaluate(
        """document.dispatchEvent(new CustomEvent('notify', { cancelable: true, detail: { id: '8-0', user: 'alice',
        type: 'generic', group: 'job', payload: { title: 'failed', type: 'error', progress: 0.4 } } }))"""
    )
    assert titles(page) == ["1", "failed", "3"]
    expect(page.get_by_role("alert")).to_contain_text("failed")
    bar = page.get_by_role("progressbar")
    assert bar.evaluate("node => node.value") == 0.4
    page.locator(SHOWN).first.get_by_role("button").click()
    expect(page.locator(f"{SHOWN} [part=title]").last).to_have_text("six")
    other = """document.dispatchEvent(new CustomEvent('notify', { cancelable: true, detail: { id: '9-0', user: 'bob',
        type: 'generic', group: 'job', payload: { title: 'of another user' } } }))"""
    page.evaluate(other)
    assert "failed" in titles(page)


def test_durations(browser: Browser, url: str) -> None:
    """Each mode and type has its own duration; 0 stays."""
    with at(browser, f"{url}/quick") as page:
        stop_the_clock(page)
        show(page, 1, "error", title="stays")
        show(page, 2, "info", title="stored")
        push(page, None, title="ephemeral")
        assert titles(page) == ["stays", "stored", "ephemeral"]
        page.clock.run_for(450)
        assert titles(page) == ["stays", "stored"]
        page.clock.run_for(300)
        assert titles(page) == ["stays"]
        page.clock.run_for(3_600_000)
        expect(page.locator(TOAST)).to_have_count(1)
        assert titles(page) == ["stays"]


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_pause(browser: Browser, url: str, how: str) -> None:
    """Time stands still while the pointer or the focus is on the toasts, and goes on afterwards."""
    with at(browser, f"{url}/quick") as page:
        stop_the_clock(page)
        show(page, 1, "info", title="read me")
        if how == "hover":
            page.locator(TOAST).hover()
        else:
            page.get_by_role("button", name="Dismiss").focus()
        page.clock.run_for(60_000)
        expect(page.locator(SHOWN)).to_have_count(1)
        page.mouse.move(5, 5)
        page.locator("#before").focus()
        page.clock.run_for(1_000)
        expect(page.locator(TOAST)).to_have_count(0)


def test_hidden_page_keeps_its_toasts(browser: Browser, url: str) -> None:
    """A toast is not taken away while the page is hidden."""
    with at(browser, f"{url}/quick") as page:
        stop_the_clock(page)
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        show(page, 1, "info", title="later")
        page.clock.run_for(60_000)
        expect(page.locator(SHOWN)).to_have_count(1)
        page.evaluate("delete document.hidden")
        page.clock.run_for(1_000)
        expect(page.locator(TOAST)).to_have_count(0)


def test_keyboard_alone(page: Page) -> None:
    """F8 goes to the first toast, Tab on, Escape and Enter dismiss; the focus moves on and then returns."""
    page.locator("#before").focus()
    for number in range(1, 4):
        show(page, number, "info", title=f"{number}", action_url=f"/{number}")
    focused = """() => document.querySelector('notify-toasts').shadowRoot.activeElement
        ?.closest('[part~=toast]').querySelector('[part=title]').textContent ?? document.activeElement.id"""
    page.keyboard.press("F8")
    assert page.evaluate(focused) == "1"
    order = []
    for _ in range(6):
        order.append(page.evaluate("() => document.querySelector('notify-toasts').shadowRoot.activeElement.part[0]"))
        page.keyboard.press("Tab")
    assert order == ["action", "close"] * 3
    page.keyboard.press("F8")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "2"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "3"
    page.keyboard.press("Escape")
    expect(page.locator(TOAST)).to_have_count(0)


def test_focus_returns(page: Page) -> None:
    """The focus goes back to where it came from when the last toast is dismissed by keyboard."""
    page.locator("#before").focus()
    show(page, 1, "info", title="1")
    page.keyboard.press("F8")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "before"
    expect(page.locator(TOAST)).to_have_count(0)


def test_escape_without_focus(page: Page) -> None:
    """With the focus on nothing Escape takes the newest; a handler of the application goes first."""
    for number in range(1, 4):
        show(page, number, "info", title=f"{number}")
    page.keyboard.press("Escape")
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["1", "2"])
    page.evaluate("document.body.addEventListener('keydown', event => event.preventDefault(), { once: true })")
    page.keyboard.press("Escape")
    page.locator("#before").focus()
    page.keyboard.press("Escape")
    assert titles(page) == ["1", "2"]


def test_no_dismissal_by_attribute(browser: Browser, url: str) -> None:
    """`dismiss="none"` has neither a button nor Escape."""
    with at(browser, f"{url}/bare") as page:
        show(page, 1, "info", title="stays")
        page.keyboard.press("Escape")
        expect(page.locator(f"{TOAST} button")).to_be_hidden()
        assert titles(page) == ["stays"]


def test_dismissal_by_server(browser: Browser, url: str) -> None:
    """`dismiss="server"` says which event was dismissed; `notify.dismissed` removes toasts, queued ones too."""
    with at(browser, f"{url}/server") as page:
        page.evaluate(
            "window.gone = []; document.addEventListener('notify-dismiss', event => gone.push(event.detail.id))"
        )
        for number in range(1, 6):
            push(page, number, group="a" if number == 3 else None, title=f"{number}")
        page.locator(SHOWN).first.get_by_role("button").click()
        assert page.evaluate("gone") == ["1-0"]
        dismissed = """payload => document.dispatchEvent(new CustomEvent('notify', { cancelable: true, detail:
            { id: '9-0', user: 'alice', type: 'notify.dismissed', payload } }))"""
        page.evaluate(dismissed, {"ids": ["2-0", "5-0"]})
        page.evaluate(dismissed, {"group": "a"})
        expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["4"])
        expect(page.locator(TOAST)).to_have_count(1)
        assert page.evaluate("gone") == ["1-0"]
        page.wait_for_function(
            """() => { const toast = document.querySelector('notify-toasts').shadowRoot.querySelector('[part~=toast]');
            const { x, y } = toast.getBoundingClientRect(); return x === 20 && y === 20; }"""
        )
        expect(page.get_by_role("region", name="Meldungen")).to_have_count(1)


def test_a_cancelled_event_shows_nothing(page: Page) -> None:
    """A listener may cancel the event, also one that was added after the element's."""
    page.evaluate(
        "addEventListener('notify', event => event.detail.payload.title === 'mine' && event.preventDefault())"
    )
    assert push(page, 1, title="mine")
    assert not push(page, 2, title="yours")
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["yours"])


def test_reduced_motion(browser: Browser, url: str) -> None:
    """With reduced motion nothing is animated, and a dismissed toast is gone at once."""
    with at(browser, url, reduced_motion="reduce") as page:
        show(page, 1, "info", title="1")
        assert page.locator(TOAST).evaluate("node => getComputedStyle(node).animationName") == "none"
        left = """() => { const root = document.querySelector('notify-toasts').shadowRoot;
            root.querySelector('button').click(); return root.querySelectorAll('[part~=toast]').length; }"""
        assert page.evaluate(left) == 0


def test_exit_without_the_end_of_an_animation(page: Page) -> None:
    """A toast goes by a timer if the end of its animation is never reported."""
    page.add_style_tag(content="notify-toasts::part(leaving) { animation: 600s linear any }")
    page.add_style_tag(content="@keyframes any { to { opacity: 0.5 } }")
    show(page, 1, "info", title="1")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(TOAST)).to_have_count(0)


def test_moved_and_removed(page: Page) -> None:
    """An element that is taken out listens to nothing; put back, it goes on."""
    page.evaluate("window.toasts = document.querySelector('notify-toasts'); toasts.remove()")
    assert not push(page, 1, title="1")
    page.evaluate("document.body.append(toasts)")
    push(page, 2, title="2")
    expect(page.locator(f"{SHOWN} [part=title]")).to_have_text(["2"])


FAKE = """
window.Notification = class { static permission = 'PERMISSION';
  constructor(title, options) { (window.made ??= []).push({ title, ...options }); window.last = this; }
  close() {} };
Object.defineProperty(document, 'hidden', { value: HIDDEN, configurable: true });
"""


@pytest.mark.parametrize(
    ("permission", "hidden", "made"), [("granted", True, 1), ("default", True, 0), ("granted", False, 0)]
)
def test_browser_notifications(page: Page, permission: str, hidden: bool, made: int) -> None:
    """A hidden page shows a notification of the system, if that is permitted."""
    page.evaluate(FAKE.replace("PERMISSION", permission).replace("HIDDEN", str(hidden).lower()))
    push(page, 1, title="Paid", message="Order 7", group="orders", action_url="javascript:alert(1)")
    if made:
        page.wait_for_function("() => window.made")
    page.wait_for_timeout(400)
    shown = page.evaluate("window.made ?? []")
    assert len(shown) == made
    if made:
        assert shown == [{"title": "Paid", "body": "Order 7", "tag": "orders"}]
        page.evaluate("last.onclick()")


def test_a_visible_tab_is_enough(browser: Browser, url: str) -> None:
    """No notification of the system while another tab of the application is visible."""
    opened = at(browser, url)
    with opened as page:
        other = opened.context.new_page()
        other.goto(url)
        other.wait_for_function("!!customElements.get('notify-status')")
        page.evaluate(FAKE.replace("PERMISSION", "granted").replace("HIDDEN", "true"))
        page.evaluate(
            """window.answers = []; window.tabs = new BroadcastChannel('notify.toasts');
            tabs.onmessage = ({ data }) => answers.push(data); 0"""
        )
        stop_the_clock(page)
        push(page, 1, title="Paid")
        page.wait_for_function("() => answers.some(({ seen }) => seen)")
        page.clock.run_for(1_000)
        assert page.evaluate("window.made ?? []") == []


# -- without a script of one's own


def warnings_of(page: Page) -> list[str]:
    """What a page warns of in the console from now on."""
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    return warnings


def test_a_notification_without_words(page: Page) -> None:
    """What has neither title nor message is not shown; the console says so once. Other types are no mistake."""
    warnings = warnings_of(page)
    payloads: list[dict[str, Any]] = [{"text": "Paid"}, {}, {"title": "", "message": None}]
    for number, payload in enumerate(payloads, 1):
        push(page, number, **payload)
    push(page, 9, type="order.paid", text="Paid")
    push(page, 10, title="Shown")
    expect(page.locator(TOAST)).to_have_count(1)
    expected = 'an event of type "generic" is not shown: its payload has neither a title nor a message'
    assert warnings == [f"notify: {expected}"]


@pytest.mark.parametrize(
    ("given", "storage"),
    [("local", "localStorage"), ("localStorage", "localStorage"), ("sessionStorage", "sessionStorage"),
     ("cookie", None), ("", None)],
)  # fmt: skip
def test_spellings_of_storage(browser: Browser, given: str, storage: str | None) -> None:
    """`data-storage` takes the names of `connect` too; what is neither is warned of."""
    pages = {"/": PAGE.replace(' src="/c', f' data-url="/notify" data-storage="{given}" src="/c'), "/client.js": STUB}
    with site(pages) as url, at(browser, url="about:blank") as page:
        warnings = warnings_of(page)
        page.goto(url)
        page.wait_for_function("!!window.notifyClient")
        assert page.evaluate("name => notifyClient.given[1].storage === (name ? window[name] : undefined)", storage)
        wrong = f'notify: data-storage="{given}" is neither "local" nor "session": the position is not kept'
        assert warnings == ([wrong] if given == "cookie" else [])


def test_the_script_connects_by_itself(browser: Browser, url: str) -> None:
    """With `data-url` on its own script element the module connects; there is one client, and it can be used."""
    with at(browser, f"{url}/auto/") as page:
        page.wait_for_function("!!window.notifyClient")
        given = page.evaluate("notifyClient.given[0]"), page.evaluate("notifyClient.given[1].when")
        assert given == ("/notify", "visible")
        assert page.evaluate("notifyClient.given[1].storage === sessionStorage")
    with at(browser, url) as page:
        assert page.evaluate("window.notifyClient === undefined")


WATCHED = """() => { window.calls = []; window.App = {
    show(element, event, domEvent) { calls.push([element.id, event.type, domEvent.type, this === App]); },
    fail() { throw Error('of the application'); } };
  for (const [id, pattern, call] of [['a', '^order[.]', 'App.fail'], ['b', '^order[.]', 'App.show'],
      ['c', '(', 'App.show'], ['d', '.', 'App.nothing'], ['e', 'paid$', 'App.show'], ['f', '.', 'no.such.path'],
      ['g', 'generic', 'App.show']]) {
    const node = document.createElement('i');
    Object.assign(node, { id });
    node.setAttribute('data-notify-on', pattern);
    node.setAttribute('data-notify-call', call);
    document.body.append(node);
  } }"""


def test_watchers(browser: Browser, url: str) -> None:
    """An element names a pattern and a function. What is wrong is warned of once; a failing one stops no other."""
    opened = at(browser, url)
    with opened as page:
        warnings = warnings_of(page)
        page.evaluate(WATCHED)
        for number in (1, 2):
            push(page, number, type="order.paid")
        assert page.evaluate("calls") == [["b", "order.paid", "notify", True], ["e", "order.paid", "notify", True]] * 2
        assert sorted(warnings) == [
            'notify: data-notify-call="App.nothing" is not a function',
            'notify: data-notify-call="no.such.path" is not a function',
            'notify: data-notify-on="(" is not a regular expression',
        ]
        assert len(opened.errors) == 2
        assert all("of the application" in error for error in opened.errors)
        opened.errors.clear()


# -- status


def status(page: Page, value: str) -> None:
    page.evaluate("s => document.dispatchEvent(new CustomEvent('notify-status', { detail: { status: s } }))", value)


def test_status(page: Page) -> None:
    """Green goes after a while, yellow becomes red, grey has the label of its attribute and goes."""
    box = page.locator("notify-status [part~=status]")
    stop_the_clock(page)
    status(page, "connecting")
    expect(box).to_have_text("Connecting")
    expect(box).to_have_attribute("role", "status")
    page.clock.run_for(400)
    status(page, "reconnecting")  # the clock runs on
    expect(box).to_have_text("Connecting")
    page.clock.run_for(200)
    expect(box).to_have_text("Disconnected")
    status(page, "connecting")
    expect(box).to_have_text("Disconnected")
    status(page, "connected")
    expect(box).to_have_text("Connected")
    expect(box).to_be_visible()
    page.clock.run_for(500)
    expect(box).to_have_attribute("part", re.compile("quiet"))
    expect(box).to_be_hidden()
    status(page, "reconnecting")
    expect(box).to_be_visible()
    status(page, "paused")
    expect(box).to_have_text("On hold")
    page.clock.run_for(500)
    expect(box).to_be_hidden()
    status(page, "closed")
    expect(box).to_have_text("Disconnected")
    expect(box).to_be_visible()


def test_status_of_one_client(page: Page) -> None:
    """With a client of its own it follows that one, from its present status on."""
    page.evaluate(
        """() => { const element = document.querySelector('notify-status'); window.handlers = new Set();
        element.client = { status: 'connected', on: (_, fn) => (handlers.add(fn), () => handlers.delete(fn)) }; }"""
    )
    box = page.locator("notify-status [part~=status]")
    expect(box).to_have_text("Connected")
    status(page, "closed")
    expect(box).to_have_text("Connected")
    stop_the_clock(page)
    page.evaluate("for (const handle of handlers) handle('reconnecting')")
    expect(box).to_have_text("Connecting")
    page.evaluate("document.querySelector('notify-status').setAttribute('label-connecting', 'Moment')")
    expect(box).to_have_text("Moment")
    page.evaluate("document.querySelector('notify-status').remove()")
    assert page.evaluate("handlers.size") == 0


# -- with the client itself

REAL = """<!doctype html><title>Real</title><notify-status hide-after="0"></notify-status>
<i id="here" data-notify-on="^number$" data-notify-call="seen"></i>
<script>window.numbers = []; window.seen = (element, event) => numbers.push(element.id + event.payload.n);</script>
<script type="module" src="/components.js" data-url="/?user=USER" data-storage="session"></script>"""


def test_with_a_real_server(browser: Browser, tmp_path: Path) -> None:
    """One script element connects to the application, shows that it is connected, and resumes after a reload."""
    user = f"user-{uuid4().hex}"
    with WebServer("uvicorn", "tests.web.apps.plain:app", tmp_path) as server, at(browser, url="about:blank") as page:
        html = REAL.replace("USER", user)
        page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html"))
        page.goto(f"{server.url}/page")
        box = page.locator("notify-status [part~=status]")
        expect(box).to_have_text("Connected")
        httpx.get(f"{server.url}/inside/push?user={user}&count=2")
        page.wait_for_function("numbers.length === 2")
        page.goto("about:blank")
        httpx.get(f"{server.url}/inside/push?user={user}&count=3")
        page.goto(f"{server.url}/page")
        page.wait_for_function("numbers.length === 3")
        expect(box).to_have_text("Connected")
