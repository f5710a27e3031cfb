"""Marks of a page that is left: what was not sent yet is sent, and a link that was followed before is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.web.browser.inbox_server import InboxServer
from tests.web.pages import PATIENCE

PAGE = """<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,>
ELEMENT
<script type=module src=/notify/components.js></script>
<script type=module>
import { connect } from '/notify/client.js';
window.client = connect('/notify', {share: false, auth: async () => ({Authorization: 'Bearer token'})});
window.inbox = client.inbox();
window.types = [];
client.on('*', ({type}) => types.push(type));
</script>"""

ELEMENTS = {
    "plain": "",
    "bell": "<notify-bell inline read=click></notify-bell>",
    "toasts": "<notify-toasts dismiss=server duration=0></notify-toasts>",
}

BY_HAND = """const start = setTimeout;
setTimeout = (act, ms, ...more) => (ms === 1500 ? (window.late = act) : start(act, ms, ...more));"""
"""The time for which a link waits is over when the test calls `late()`."""

WATCH = "navigation.addEventListener('navigate', () => (window.hasLeft = true)); 0"
STAYS = "new Promise((done) => setTimeout(() => done(!window.hasLeft && location.pathname === '/bell')))"
"""Whether no navigation has begun: `location.assign` begins one at once."""

FIRST, SECOND, THIRD = (f"1700000000000-{number}" for number in (1, 2, 3))


@pytest.fixture
def scripted() -> Iterator[InboxServer]:
    """Marks are applied, and the answers to them are held back."""
    server = InboxServer()
    for name, element in ELEMENTS.items():
        server.files[f"/{name}"] = ("text/html", PAGE.replace("ELEMENT", element).encode())
    gate = server.gate("/inbox/mark")
    yield server
    gate.set()


def fill(server: InboxServer) -> None:
    for title in ("one", "two", "three"):
        server.send({"title": title, "action_url": "/linked"})


def opened(context: BrowserContext, url: str, items: int = 3) -> Page:
    page = context.new_page()
    page.goto(url)
    page.wait_for_function(f"inbox.items.length === {items} && client.status === 'connected'")
    return page


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked(server: InboxServer, count: int) -> list[Any]:
    """The first marks that the server got, once there are so many, in the order of their names."""
    wait_for(lambda: server.held.count("/inbox/mark") >= count)
    return sorted([seen.body for seen in server.requests("/inbox/mark")], key=str)


def shown_bell(page: Page, server: InboxServer) -> Locator:
    """The bell, while the answer to its first mark is awaited: the items are seen."""
    bell = page.locator("notify-bell")
    expect(bell.locator("article")).to_have_count(3)
    asked(server, 1)
    return bell


def test_waiting_marks_are_sent(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Those that wait for the answer to an earlier one are sent when the page is left."""
    fill(scripted)
    page = opened(context, f"{site}/plain")
    page.evaluate(f"inbox.read('{FIRST}'); inbox.unread('{SECOND}'); inbox.dismiss('{THIRD}'); void inbox.readUpTo()")
    assert asked(scripted, 1) == [{"state": "read", "ids": [FIRST]}]
    page.goto(f"{site}/elsewhere")
    assert [body["state"] for body in asked(scripted, 4)] == ["dismissed", "read", "read", "unread"]
    assert scripted.fold()[0]["dismissed_at"]


def test_an_undo_does_not_race_with_what_it_undoes(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Requests that leave together can arrive in any order: a mark that a later one overrides is not among them."""
    fill(scripted)
    page = opened(context, f"{site}/plain")
    page.evaluate(
        f"inbox.read('{FIRST}'); inbox.dismiss('{SECOND}'); inbox.unread('{SECOND}'); inbox.read('{THIRD}'); 0"
    )
    page.goto(f"{site}/elsewhere")
    assert asked(scripted, 3) == [
        {"state": "read", "ids": [FIRST]},
        {"state": "read", "ids": [THIRD]},
        {"state": "unread", "ids": [SECOND]},
    ]


def test_a_large_mark(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Browsers send no more than 64 KiB for a page that is left: a larger mark is sent as any other request."""
    fill(scripted)
    page = opened(context, f"{site}/plain")
    page.evaluate(f"inbox.read([...Array(5000).keys()].map((n) => `1800000000000-${{n}}`).concat('{FIRST}')); 0")
    [body] = asked(scripted, 1)
    assert len(body["ids"]) == 5001
    assert scripted.fold()[-1]["read_at"]


def test_a_link_after_all_were_marked(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """A link of the bell waits for "Mark all read", though its item is shown as read already."""
    fill(scripted)
    context.add_init_script(BY_HAND)
    page = opened(context, f"{site}/bell")
    bell = shown_bell(page, scripted)
    page.evaluate(WATCH)
    bell.get_by_role("button", name="Mark all read").click()
    bell.get_by_role("article", name="two").click()
    assert page.evaluate(STAYS)
    scripted.gates["/inbox/mark"].set()
    page.wait_for_url("**/linked")
    assert [body["state"] for body in asked(scripted, 2)] == ["read", "seen"]


def test_a_link_that_waits_too_long(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """The server does not answer in time: the page is left, and the mark that waited is sent."""
    fill(scripted)
    page = opened(context, f"{site}/bell")
    bell = shown_bell(page, scripted)
    bell.get_by_role("button", name="Mark all read").click()
    bell.get_by_role("article", name="two").click()
    page.wait_for_url("**/linked")
    assert [body["state"] for body in asked(scripted, 2)] == ["read", "seen"]
    assert all(item["read_at"] for item in scripted.fold())


@pytest.mark.parametrize("end", ["late", "answer"])
def test_a_link_that_was_left_behind(context: BrowserContext, site: str, scripted: InboxServer, end: str) -> None:
    """The user went elsewhere while a link waited, and came back: the page stays, whatever ends the wait."""
    fill(scripted)
    context.add_init_script(BY_HAND)
    page = opened(context, f"{site}/bell")
    bell = shown_bell(page, scripted)
    page.evaluate("window.persisted = []; addEventListener('pageshow', (event) => persisted.push(event.persisted))")
    bell.get_by_role("article", name="two").click()
    page.wait_for_function("!!window.late")
    page.goto(f"{site}/elsewhere")
    asked(scripted, 2)
    if end == "answer":
        scripted.gates["/inbox/mark"].set()
    page.go_back(wait_until="commit")
    page.wait_for_function("window.persisted?.length && client.status === 'connected'")
    assert page.evaluate("persisted") == [True]
    page.evaluate(WATCH)
    if end == "late":
        page.evaluate("late()")
    scripted.gates["/inbox/mark"].set()
    page.evaluate(f"inbox.read('{FIRST}')")  # after the mark that the link waited for
    assert page.evaluate(STAYS)


def test_the_link_of_a_toast(context: BrowserContext, site: str, scripted: InboxServer) -> None:
    """Its item is dismissed although the link leaves the page before an earlier dismissal was answered."""
    page = opened(context, f"{site}/toasts", items=0)
    fill(scripted)
    toasts = page.locator("notify-toasts [part~=toast]:not([inert])")
    expect(toasts).to_have_count(3)
    page.wait_for_function("inbox.items.length === 3")
    toasts.filter(has_text="one").locator("[part=close]").click()
    asked(scripted, 1)
    toasts.filter(has_text="two").get_by_role("link").click()
    page.wait_for_url("**/linked")
    asked(scripted, 2)
    assert [bool(item["dismissed_at"]) for item in scripted.fold()] == [False, True, True]
