"""`<notify-toasts dismiss="server">`: what is dismissed there is dismissed in the inbox, and the other way round."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.web.browser.inbox_server import READ_AGAIN, InboxServer
from tests.web.browser.scripted import Answer

PAGE = """<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,>
<notify-toasts dismiss=DISMISS duration=0 duration-ephemeral=0 limit="9 9"></notify-toasts>
<script type=module src=/notify/components.js></script>
<script type=module>
import { connect } from '/notify/client.js';
window.client = connect('/notify', {share: false});
window.types = [];
client.on('*', ({type}) => types.push(type));
</script>"""

LONG = "a topic with a name that is too long"
"""A position has a hash in the place of such a name."""


@pytest.fixture
def scripted() -> InboxServer:
    server = InboxServer()
    for dismiss in ("server", "visual"):
        server.files[f"/{dismiss}"] = ("text/html", PAGE.replace("DISMISS", dismiss).encode())
    return server


def opened(context: BrowserContext, site: str, dismiss: str = "server") -> tuple[Page, Locator]:
    page = context.new_page()
    page.goto(f"{site}/{dismiss}")
    page.wait_for_function("client.status === 'connected'")
    return page, page.locator("notify-toasts [part~=toast]:not([inert]) [part=title]")


def sent(server: InboxServer) -> list[Any]:
    return [seen.body for seen in server.requests("/inbox/mark")]


def test_dismissed_on_the_server(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """The button dismisses the item; another page of the user loses its toast; what is not listed sends no request."""
    scripted.topics = {"news": "news"}
    pages = [opened(context, site), opened(context, site)]
    scripted.send({"title": "one"})
    scripted.send({"title": "headline"}, user="news")
    scripted.push({"title": "a push"}, type="generic", timestamp="2030")
    for _, titles in pages:
        expect(titles).to_have_text(["one", "headline", "a push"])
    for number in range(3):
        pages[0][0].locator("notify-toasts [part=close]").nth(2 - number).click()
    expect(pages[0][1]).to_have_count(0)
    expect(pages[1][1]).to_have_text(["a push"])
    ids = {asked["ids"][0] if "@" not in asked["ids"][0] else asked["ids"][1] for asked in sent(scripted)}
    assert ids == {"1700000000000-1", "1700000000000-2"}
    assert [item["dismissed_at"] is not None for item in scripted.fold()] == [True, True]
    scripted.push("later")
    for page, _ in pages:
        page.wait_for_function("types.includes('note')")
        assert page.evaluate("types.filter((type) => type === 'notify.dismissed').length") == 2


def test_the_server_refuses(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """The toast comes back."""
    page, titles = opened(context, site)
    scripted.send({"title": "one"})
    expect(titles).to_have_text(["one"])
    scripted.always["/inbox/mark"] = Answer(status=503)
    page.locator("notify-toasts [part=close]").click()
    page.wait_for_function("!document.querySelector('notify-toasts').shadowRoot.querySelector('[part~=leaving]')")
    expect(titles).to_have_text(["one"])
    assert scripted.requests("/inbox/mark")


def test_the_server_refuses_what_came_again(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """A dispatcher's item that comes again, under another id, while its dismissal is sent: its toast comes back."""
    page, titles = opened(context, site)
    scripted.send({"title": "one"}, meta={"notification": "n1"})
    expect(titles).to_have_text(["one"])
    page.route("**/inbox/mark", lambda route: refusals.append(route))
    refusals: list[Route] = []
    with page.expect_request("**/inbox/mark"):
        page.locator("notify-toasts [part=close]").click()
    expect(titles).to_have_count(0)
    scripted.send({"title": "one"}, meta={"notification": "n1"})
    scripted.send({"title": "two"})
    expect(titles).to_have_text(["two"])
    for route in refusals:
        route.fulfill(status=503)
    expect(titles).to_have_text(["two", "one"])


def test_cancelled(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """`notify-dismiss` can be cancelled: the page does it in its own way."""
    page, titles = opened(context, site)
    cancel = "(event) => event.detail.payload.title === 'one' && event.preventDefault()"
    page.evaluate(f"document.addEventListener('notify-dismiss', {cancel})")
    for title in ("one", "two"):
        scripted.send({"title": title})
    for title in ("one", "two"):
        page.locator("notify-toasts [part~=toast]", has_text=title).locator("[part=close]").click()
    expect(titles).to_have_count(0)
    page.wait_for_function("types.includes('notify.dismissed')")
    assert [body["ids"][0] for body in sent(scripted)] == ["1700000000000-2"]


@pytest.mark.parametrize("how", ["ids", "up_to"])
def test_dismissed_while_away(context: BrowserContext, site: str, scripted: InboxServer, how: str) -> None:
    """After a reconnect only what was dismissed is gone: not what is ephemeral, and not what is not listed."""
    page, titles = opened(context, site)
    scripted.send({"title": "listed"})
    scripted.push({"title": "unlisted"}, type="generic", timestamp="2030")
    scripted.ephemeral.append(
        {"user": "alice", "type": "generic", "payload": {"title": "ephemeral"}, "timestamp": "2030"}
    )
    expect(titles).to_have_count(3)
    scripted.send({"title": "stays"})
    expect(titles).to_have_text(["listed", "unlisted", "ephemeral", "stays"])
    scripted.always["/stream"] = Answer(status=503, headers={"retry-after": "1"})
    scripted.end_streams()
    page.wait_for_function("client.status === 'reconnecting'")
    target = {"ids": ["1700000000000-1"]} if how == "ids" else {"up_to": "1700000000000-2"}
    scripted.change("dismissed", **target)
    scripted.always.clear()
    expect(titles).to_have_text(["unlisted", "ephemeral", "stays"])
    page.wait_for_function("client.status === 'connected'")
    scripted.send({"title": "later"})
    expect(titles).to_have_text(["unlisted", "ephemeral", "stays", "later"])


@pytest.mark.parametrize("dismiss", ["visual", "server"])
def test_dismissed_up_to(context: BrowserContext, site: str, scripted: InboxServer, dismiss: str) -> None:
    """What a position covers in each of several logs goes, or up to an item in its log; what came later stays."""
    scripted.topics = {"news:sport": "news_3Asport", LONG: "~" + 22 * "x"}
    page, titles = opened(context, site, dismiss)
    scripted.send({"title": "one"})
    scripted.send({"title": "headline"}, user="news:sport")
    scripted.send({"title": "long"}, user=LONG)
    scripted.push({"title": "unlisted"}, type="generic", timestamp="2030")
    up_to = scripted.place()
    scripted.send({"title": "two"})
    scripted.send({"title": "score"}, user="news:sport")
    scripted.send({"title": "longer"}, user=LONG)
    expect(titles).to_have_text(["one", "headline", "long", "unlisted", "two", "score", "longer"])
    scripted.change("dismissed", up_to=up_to)
    expect(titles).to_have_text(["unlisted", "two", "score", "longer"])
    scripted.change("dismissed", up_to="1700000000000-6@news:sport")
    expect(titles).to_have_text(["unlisted", "two", "longer"])
    scripted.send({"title": "last"})
    scripted.change("dismissed", up_to="1700000000000-5")
    expect(titles).to_have_text(["unlisted", "longer", "last"])
    assert len(scripted.requests("/inbox")) <= 5  # for the logs whose names are hashes
    assert page.evaluate("types.length") == 11


def test_a_group_of_several_logs(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """A group is dismissed in the user's own log and in those of topics."""
    scripted.topics = {"news": "news"}
    _, titles = opened(context, site, "visual")
    scripted.send({"title": "mine"}, group="a")
    scripted.send({"title": "theirs"}, group="a", user="news")
    scripted.send({"title": "other"}, group="b", user="news")
    expect(titles).to_have_text(["mine", "theirs", "other"])
    scripted.change("dismissed", group="a")
    expect(titles).to_have_text(["other"])


def test_gone_with_the_element(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Removed from the page, it follows no inbox; one of the page itself, whose turn is later, does."""
    page, titles = opened(context, site)
    scripted.send({"title": "one"})
    expect(titles).to_have_text(["one"])
    page.evaluate("window.toasts = document.querySelector('notify-toasts'); toasts.remove()")
    page.evaluate("window.inbox = client.inbox(); 0")
    page.wait_for_function("!inbox.loading")
    page.evaluate(f"({READ_AGAIN})(inbox)")
    count = len(scripted.requests("/inbox"))
    scripted.push({"topic": "news", "since": "0"}, type="notify.followed")
    page.wait_for_function("window.readAgain")
    assert len(scripted.requests("/inbox")) == count + 1
