"""`<notify-bell>` in a real browser: what it shows and changes, by pointer, keyboard and for a screen reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.web.browser.inbox_server import InboxServer
from tests.web.browser.scripted import Answer
from tests.web.pages import screenshot

PAGE = """<!doctype html><html lang=en DIR><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Orders</title><link rel=icon href=data:,>
<style>
body { font: 15px/1.5 system-ui; margin: 0; background: light-dark(#f4f5f8, #0e1014); color-scheme: light dark }
body { color: light-dark(#161922, #e9ebf0) }
header { display: flex; justify-content: space-between; align-items: center; padding: 10px 20px }
header { background: light-dark(#fff, #16191f) }
main { padding: 20px }</style>
<header><strong>Shop</strong><notify-bell ATTRIBUTES></notify-bell></header>
<main><h1>Orders</h1><button id=outside>A button of the page</button></main>
<script type=module src=/notify/bell.js></script>
<script type=module>
import { connect } from '/notify/client.js';
window.client = connect('/notify', {share: false});
window.bell = document.querySelector('notify-bell');
window.types = [];
client.on('*', ({type}) => types.push(type));
</script></html>"""

ITEM = "article"


@pytest.fixture
def scripted() -> InboxServer:
    server = InboxServer()
    fill(server)
    return server


def fill(server: InboxServer) -> None:
    """Four items, the oldest one read."""
    server.send({"title": "Welcome", "message": "Your account is ready"})
    server.change("read", ids=["1700000000000-1"])
    server.send({"title": "Order 1042 has shipped", "message": "It arrives on Tuesday", "type": "success"})
    server.send({"title": "Payment failed", "message": "The card was declined", "type": "error", "action_url": "/pay"})
    server.send({"title": "Anna commented on your order", "message": "Can you add a gift card?"})


def served(server: InboxServer, attributes: str = 'read="click"', direction: str = "") -> None:
    page = PAGE.replace("ATTRIBUTES", attributes).replace("DIR", direction)
    server.files["/bell"] = ("text/html", page.encode())


def shown(page: Page, url: str, unread: str = "3") -> Locator:
    """The bell, when it has its number."""
    page.goto(f"{url}/bell")
    bell = page.locator("notify-bell")
    expect(bell.locator("[part=badge]")).to_have_text(unread)
    return bell


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def test_one_script_is_enough(page: Page, site: str, scripted: InboxServer) -> None:
    """`components.js` loads the bell where the page has one, and only there; with `data-url` it connects too."""
    one = re.sub(
        r"<script.*</script>",
        "<script type=module src=/notify/components.js data-url=/notify></script>",
        PAGE.replace("ATTRIBUTES", 'read="click"').replace("DIR", ""),
        flags=re.DOTALL,
    )
    scripted.files["/bell"] = ("text/html", one.encode())
    scripted.files["/none"] = ("text/html", re.sub("<notify-bell.*</notify-bell>", "", one).encode())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    shown(page, site)
    assert "bell.js" in asked
    asked.clear()
    page.goto(f"{site}/none")
    page.wait_for_function("window.notifyClient?.status === 'connected'")
    assert "client.js" in asked
    assert "bell.js" not in asked


def titles(bell: Locator) -> list[str]:
    return bell.locator("article [part=title]").all_inner_texts()


def body(server: InboxServer, number: int = -1) -> Any:
    return server.requests("/inbox/mark")[number].body


def test_the_badge(page: Page, site: str, scripted: InboxServer) -> None:
    """The number that the server tells, in the badge, in the name of the button, in the title and on the icon."""
    served(scripted, 'title-badge app-badge label="Inbox" label-count="{n} new"')
    page.add_init_script("window.app = []; navigator.setAppBadge = async (n) => app.push(n);"
                         "navigator.clearAppBadge = async () => app.push(0);")  # fmt: skip
    bell = shown(page, site)
    expect(bell.get_by_role("button", name="Inbox, 3 new")).to_be_visible()
    expect(page).to_have_title("(3) Orders")
    scripted.send({"title": "Another"})
    expect(page).to_have_title("(4) Orders")
    expect(bell.locator("[part=live]")).to_have_text("4 new")
    scripted.change("read", up_to=scripted.place())
    expect(bell.locator("[part=badge]")).to_be_hidden()
    expect(page).to_have_title("Orders")
    assert page.evaluate("app.at(-1)") == 0
    assert 4 in page.evaluate("app")
    scripted.counts = lambda: {"total": 150, "unseen": 2, "unread": 150, "position": scripted.place()}
    scripted.send({"title": "Many"})
    expect(bell.locator("[part=badge]")).to_have_text("99+")
    page.evaluate("bell.remove()")
    expect(page).to_have_title("Orders")


def test_the_panel(page: Page, site: str, scripted: InboxServer) -> None:
    """Opened: the items, newest first; they are seen, not read; what arrives is on top."""
    served(scripted)
    bell = shown(page, site)
    assert bell.locator("[part=panel]").is_hidden()
    bell.locator("[part=bell]").click()
    expect(bell.locator(ITEM)).to_have_count(4)
    assert titles(bell) == ["Anna commented on your order", "Payment failed", "Order 1042 has shipped", "Welcome"]
    page.wait_for_function("types.includes('notify.seen')")
    assert body(scripted) == {"state": "seen", "up_to": "1700000000000-5"}
    scripted.send({"title": "Just in"})
    expect(bell.locator("article [part=title]").first).to_have_text("Just in")
    expect(bell.locator("[part=badge]")).to_have_text("4")
    page.locator("#outside").click()
    expect(bell.locator("[part=panel]")).to_be_hidden()


def test_read_on_view(page: Page, site: str, scripted: InboxServer) -> None:
    """What was visible in the open panel for a second is read, in one request; what is below the fold is not."""
    scripted.log.clear()
    for number in range(12):
        scripted.send({"title": f"Item {number}", "message": "Two lines\nof text"})
    served(scripted, "")
    page.add_init_script(
        "const start = setTimeout; window.waits = [];"
        "setTimeout = (act, ms, ...more) => (waits.push(ms), start(act, ms, ...more));"
    )
    bell = shown(page, site, "12")
    assert 1000 not in page.evaluate("waits")
    bell.locator("[part=bell]").click()
    page.wait_for_function("types.includes('notify.read')")
    assert 1000 in page.evaluate("waits")
    asked = [seen.body["ids"] for seen in scripted.requests("/inbox/mark") if seen.body["state"] == "read"]
    assert "1700000000000-12" in asked[0]
    assert all("1700000000000-1" not in ids for ids in asked)
    for number in (6, 3, 0):
        bell.locator(ITEM).nth(11 - number).scroll_into_view_if_needed()
        expect(bell.locator(ITEM).nth(11 - number)).to_have_attribute("part", "item  read ")
    expect(bell.locator("[part=badge]")).to_be_hidden()


def test_tabs(page: Page, site: str, scripted: InboxServer) -> None:
    """All, and the unread ones; one that is read there stays until the tab is left."""
    served(scripted)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("tab", name="Unread").click()
    expect(bell.locator(ITEM)).to_have_count(3)
    bell.locator(ITEM).last.click()
    expect(bell.locator(ITEM).last).to_have_attribute("part", "item success read ")
    assert bell.locator(ITEM).count() == 3
    bell.get_by_role("tab", name="All").click()
    expect(bell.locator(ITEM)).to_have_count(4)
    bell.get_by_role("tab", name="Unread").click()
    expect(bell.locator(ITEM)).to_have_count(2)
    scripted.change("read", up_to=scripted.place())
    expect(bell.locator("[part~=unread]")).to_have_count(0)
    bell.get_by_role("tab", name="All").click()
    bell.get_by_role("tab", name="Unread").click()
    expect(bell.locator("[part=note]")).to_contain_text("You are up to date")


@pytest.mark.usefixtures("page")
def test_mark_all_read(page: Page, site: str, scripted: InboxServer) -> None:
    """Everything up to what this page has: an item that it has not yet got stays unread."""
    served(scripted)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    page.wait_for_function("types.includes('notify.seen')")
    bell.get_by_role("button", name="Mark all read").click()
    expect(bell.locator("[part=badge]")).to_be_hidden()
    assert body(scripted) == {"state": "read", "up_to": "1700000000000-6"}
    expect(bell.get_by_role("button", name="Mark all read")).to_be_disabled()


def test_dismiss_and_undo(page: Page, site: str, scripted: InboxServer) -> None:
    """The item goes at once and comes back by the undo."""
    served(scripted)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("button", name="Dismiss: Payment failed").click()
    expect(bell.locator(ITEM)).to_have_count(3)
    expect(bell.locator("[part=bar]")).to_contain_text("Dismissed")
    expect(bell.locator("[part=badge]")).to_have_text("2")
    bell.get_by_role("button", name="Undo").click()
    expect(bell.locator(ITEM)).to_have_count(4)
    assert body(scripted) == {"state": "unread", "ids": ["1700000000000-4"]}
    expect(bell.locator("[part=badge]")).to_have_text("3")
    bell.get_by_role("button", name="Dismiss: Welcome").click()
    bell.get_by_role("button", name="Undo").click()
    expect(bell.locator(ITEM)).to_have_count(4)
    assert body(scripted) == {"state": "restored", "ids": ["1700000000000-1"]}


def test_a_dismissal_that_fails(page: Page, site: str, scripted: InboxServer) -> None:
    """The item is back, and the panel says that it did not work."""
    served(scripted)
    scripted.always["/inbox/mark"] = Answer(status=503)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("button", name="Dismiss: Payment failed").click()
    expect(bell.locator("[part=bar]")).to_contain_text("That did not work")
    expect(bell.locator(ITEM)).to_have_count(4)


def test_load_more(page: Page, site: str, scripted: InboxServer) -> None:
    """Page by page, to the end."""
    served(scripted, 'limit="3" read="none"')
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    expect(bell.locator(ITEM)).to_have_count(3)
    assert bell.locator(ITEM).first.get_attribute("aria-setsize") == "-1"
    bell.get_by_role("button", name="Load more").click()
    expect(bell.locator(ITEM)).to_have_count(4)
    expect(bell.get_by_role("button", name="Load more")).to_be_hidden()
    assert bell.locator(ITEM).last.get_attribute("aria-posinset") == "4"
    bell.locator(ITEM).last.click()
    bell.get_by_role("button", name="Dismiss: Welcome").click()
    page.wait_for_function("types.includes('notify.dismissed')")
    assert [seen.body["state"] for seen in scripted.requests("/inbox/mark")] == ["seen", "dismissed"]


def test_empty_and_error(page: Page, site: str, scripted: InboxServer) -> None:
    """Nothing there, and nothing that could be loaded: two different things, and the second can be tried again."""
    scripted.log.clear()
    served(scripted)
    page.goto(f"{site}/bell")
    bell = page.locator("notify-bell")
    page.wait_for_function("client.status === 'connected'")
    bell.locator("[part=bell]").click()
    expect(bell.locator("[part=note]")).to_have_text("Nothing here yetTry again")
    assert bell.get_by_role("button", name="Try again").is_hidden()
    scripted.always["/inbox"] = Answer(status=500)
    page.reload()
    page.wait_for_function("client.status === 'connected'")
    bell.locator("[part=bell]").click()
    expect(bell.locator("[part=note]")).to_contain_text("Notifications could not be loaded")
    screenshot(page, "bell-error")
    scripted.always.clear()
    fill(scripted)
    bell.get_by_role("button", name="Try again").click()
    expect(bell.locator(ITEM)).to_have_count(4)


def test_the_keyboard(page: Page, site: str, scripted: InboxServer) -> None:
    """Open, move, dismiss, undo, change the tab, open an item, close: without a pointer."""
    served(scripted)
    bell = shown(page, site)
    active = "bell.shadowRoot.activeElement"
    focused = f"{active}?.querySelector('[part=title]')?.textContent ?? {active}?.textContent"
    page.locator("#outside").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(bell.locator(ITEM)).to_have_count(4)
    page.wait_for_function(f"['Anna commented on your order', 'All'].includes({focused})")
    if page.evaluate(focused) == "All":
        page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "Payment failed"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "Welcome"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "Welcome"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    expect(bell.locator(ITEM)).to_have_count(3)
    assert page.evaluate(focused) == "Order 1042 has shipped"
    page.keyboard.press("Control+z")
    expect(bell.locator(ITEM)).to_have_count(4)
    page.keyboard.press("Home")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == "All"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "Unread"
    expect(bell.locator(ITEM)).to_have_count(3)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.evaluate(
        """addEventListener('notify-open', (event) => {
          event.preventDefault();
          window.went = event.detail.payload.title;
        })"""
    )
    page.keyboard.press("Enter")
    assert page.evaluate("went") == "Anna commented on your order"
    expect(bell.locator("[part=badge]")).to_have_text("2")
    page.keyboard.press("Escape")
    expect(bell.locator("[part=panel]")).to_be_hidden()
    assert page.evaluate("bell.shadowRoot.activeElement.part.value") == "bell"
    page.keyboard.press("ArrowDown")
    expect(bell.locator("[part=panel]")).to_be_visible()


def test_the_tree_of_a_screen_reader(page: Page, site: str, scripted: InboxServer) -> None:
    """Roles and names; only one item and one tab are in the Tab order."""
    served(scripted)
    bell = shown(page, site)
    button = bell.get_by_role("button", name="Notifications, 3 unread")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    expect(bell.get_by_role("dialog", name="Notifications")).to_be_visible()
    expect(bell.get_by_role("feed")).to_have_attribute("aria-busy", "false")
    expect(bell.get_by_role("article", name="Payment failed")).to_have_attribute("aria-description", "Unread")
    assert bell.get_by_role("tab", selected=True).inner_text() == "All"
    assert bell.locator("article[tabindex='0']").count() == 1
    assert bell.get_by_role("status").count() == 1
    assert button.get_attribute("aria-expanded") == "true"


def test_hostile_content_stays_text(page: Page, site: str, scripted: InboxServer) -> None:
    """Markup, scripts and addresses in what an event contains."""
    scripted.log.clear()
    evil = "<img src=x onerror=window.evil=1>"
    for url in ("javascript:window.evil=1", "//evil.example/x", "data:text/html,x", 7, {"a": 1}, ""):
        scripted.send(
            {"title": evil, "message": {"html": evil}, "action_url": url, "type": "__proto__"}, group=evil + str(url)
        )
    for payload in (None, 5, "text", [evil], {"title": ["a"]}):
        scripted.send(payload)
    served(scripted)
    bell = shown(page, site, "11")
    bell.locator("[part=bell]").click()
    expect(bell.locator(ITEM)).to_have_count(11)
    expect(bell.locator(ITEM).last.locator("[part=title]")).to_have_text(evil)
    assert bell.locator("img").count() == 0
    assert bell.locator("[part~=link]").count() == 0
    bell.locator(ITEM).last.click()
    bell.locator(ITEM).first.locator("[part=dismiss]").click()
    page.wait_for_function("types.includes('notify.dismissed')")  # what a link would wait for has been answered
    assert page.evaluate("window.evil") is None
    assert page.url.endswith("/bell")


def test_links(page: Page, site: str, scripted: InboxServer) -> None:
    """An item with an address opens it, and is read."""
    served(scripted)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("article", name="Payment failed").click()
    page.wait_for_url("**/pay")


def test_a_link_waits_for_its_mark(page: Page, site: str, scripted: InboxServer) -> None:
    """The item is marked as read before the page is left."""
    served(scripted)
    late = "const timer = setTimeout; setTimeout = (fn, ms, ...more) => timer(fn, ms === 1500 ? 60000 : ms, ...more);"
    page.add_init_script(late)
    gate = scripted.gate("/inbox/mark")
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("article", name="Payment failed").click()
    expect(bell.get_by_role("article", name="Payment failed")).to_have_attribute("aria-description", "")
    page.wait_for_function("types.includes('notify.read')")
    assert page.evaluate("new Promise((done) => setTimeout(() => done(location.pathname)))") == "/bell"
    gate.set()
    page.wait_for_url("**/pay")
    assert body(scripted) == {"state": "read", "ids": ["1700000000000-4"]}


def test_another_client(page: Page, site: str, scripted: InboxServer) -> None:
    """Setting another client clears the previous one's list and undo."""
    served(scripted)
    bell = shown(page, site)
    bell.locator("[part=bell]").click()
    bell.get_by_role("button", name="Dismiss: Welcome").click()
    expect(bell.locator("[part=bar]")).to_be_visible()
    page.evaluate("bell.client = null")
    expect(bell.locator(ITEM)).to_have_count(0)
    expect(bell.locator("[part=badge]")).to_be_hidden()
    expect(bell.locator("[part=bar]")).to_be_hidden()
    page.evaluate("bell.client = client")
    expect(bell.locator(ITEM)).to_have_count(3)
    expect(bell.locator("[part=badge]")).to_have_text("3")


def test_two_bells_stay_in_step(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Dismissed and read in one page: so in the other, with one event on each connection."""
    served(scripted)
    pages = [context.new_page(), context.new_page()]
    bells = [shown(each, site) for each in pages]
    for bell in bells:
        bell.locator("[part=bell]").click()
        expect(bell.locator(ITEM)).to_have_count(4)
    pages[0].wait_for_function("types.includes('notify.seen')")
    bells[0].get_by_role("button", name="Dismiss: Payment failed").click()
    for bell in bells:
        expect(bell.locator(ITEM)).to_have_count(3)
        expect(bell.locator("[part=badge]")).to_have_text("2")
    scripted.push("later")
    for each in pages:
        each.wait_for_function("types.includes('note')")
        assert each.evaluate("types.filter((type) => type === 'notify.dismissed').length") == 1


@pytest.mark.parametrize(
    ("name", "width", "options", "direction"),
    [
        ("light", 900, {}, ""), ("dark", 900, {"color_scheme": "dark"}, ""), ("rtl", 900, {}, "dir=rtl"),
        ("phone", 320, {}, ""), ("calm", 900, {"reduced_motion": "reduce"}, ""),
        ("contrast", 900, {"forced_colors": "active"}, ""),
    ],
)  # fmt: skip
def test_looks(
    chromium: Browser, site: str, scripted: InboxServer, name: str, width: int, options: dict[str, Any], direction: str
) -> None:
    """The panel is inside the window, in each direction, colour scheme and width; pictures are kept."""
    scripted.send({"title": "تم شحن الطلب 1042", "message": "يصل يوم الثلاثاء"}) if direction else None
    served(scripted, direction=direction)
    context = chromium.new_context(viewport={"width": width, "height": 640}, **options)
    page = context.new_page()
    bell = shown(page, site, "4" if direction else "3")
    bell.locator("[part=bell]").click()
    expect(bell.locator(ITEM)).to_have_count(5 if direction else 4)
    panel = bell.locator("[part=panel]")
    if name == "calm":
        assert panel.evaluate("(node) => getComputedStyle(node).animationName") == "none"
    panel.evaluate("(node) => Promise.all(node.getAnimations().map((each) => each.finished))")
    box = panel.bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    background = panel.evaluate("(node) => getComputedStyle(node).backgroundColor")
    assert background == ("rgb(29, 32, 39)" if name == "dark" else "rgb(255, 255, 255)")
    selected, other = bell.get_by_role("tab").evaluate_all(
        "all => all.map((tab) => getComputedStyle(tab).backgroundColor)"
    )
    assert selected != other
    bell.get_by_role("button", name="Dismiss: Welcome").click()
    page.mouse.move(5, 600)
    screenshot(page, f"bell-{name}")
    context.close()


@pytest.fixture(autouse=True)
def _stopped(scripted: InboxServer) -> Iterator[None]:
    yield
    for gate in scripted.gates.values():
        gate.set()
