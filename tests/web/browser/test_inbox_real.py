"""The inbox of the browser client with the real server: two pages of one user, and topics, on one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request, mount
from notify_memory import MemoryStreamStore
from tests.web.browser.conftest import until
from tests.web.browser.scripted import PAGE, serving

SECRET = "a secret of the programs that push"
TOKEN = {"authorization": "Bearer alice"}
TOPICS = ("news", "a topic whose name is longer than a position can hold")

BELL = PAGE.replace("<p id=out></p>", "<notify-bell read=click></notify-bell><notify-toasts></notify-toasts>").replace(
    "</script>", "</script><script type=module src=/notify/bell.js></script>"
)

OPEN = """(options) => {
  start({share: false, auth: () => ({Authorization: 'Bearer alice'}), ...options});
  window.inbox = got.client.inbox();
  window.titles = () => inbox.items.map(({payload}) => payload.title).join();
}"""


def authenticate(request: Request) -> Identity | None:
    """The user of the token, who may read two topics."""
    return Identity("alice", addresses=TOPICS) if request.headers.get("authorization") == "Bearer alice" else None


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """A page that loads the client and the bell."""
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(BELL.encode())).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BELL.encode()})


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadPoolExecutor(1) as thread:  # in this one, the browser's driver has an event loop
        app = thread.submit(made).result()
    with serving(mount("/notify", app, inner)) as url:
        yield url


def made() -> NotifyApp:
    notifier = Notifier(MemoryStreamStore())
    return NotifyApp(notifier, authenticate, inbox=Inbox(notifier), publish_secrets=[SECRET])


def send(site: str, title: str, **order: Any) -> str:
    """Send an item, as another program does."""
    order = {"user": "alice", **order} if "topic" not in order else order
    body = {"type": "generic", "payload": {"title": title}, "list": True, **order}
    answer = httpx.post(f"{site}/notify/push", json=body, headers={"authorization": f"Bearer {SECRET}"}, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def follow(site: str, topic: str) -> None:
    answer = httpx.post(f"{site}/notify/follow", json={"topic": topic}, headers=TOKEN, timeout=30)
    assert answer.status_code == 200, answer.text


def opened(context: BrowserContext, site: str, **options: Any) -> Page:
    page = context.new_page()
    page.goto(site)
    page.wait_for_function("window.ready")
    page.evaluate(OPEN, options)
    until(page, "got.client.status === 'connected' && !inbox.loading && !inbox.error")
    return page


def hold_pages(page: Page) -> Callable[[], None]:
    """Hold back requests for pages of the inbox until the returned function is called."""
    held: list[Route] = []
    is_open = False

    def handle(route: Route) -> None:
        if is_open:
            route.continue_()
        else:
            held.append(route)

    def release() -> None:
        nonlocal is_open
        is_open = True
        for route in held:
            route.continue_()

    page.route("**/notify/inbox?*", handle)
    return release


@pytest.mark.parametrize("options", [{}, {"share": True}, {"transports": ["eventsource"]}, {"transports": ["poll"]}])
def test_two_pages(context: BrowserContext, site: str, options: dict[str, Any]) -> None:
    """Dismissed in one: gone in both, the same counts, one event on each connection; read and restored likewise."""
    send(site, "one")
    second = send(site, "two")
    pages = [opened(context, site, **options), opened(context, site, **options)]
    send(site, "three")
    for page in pages:
        until(page, "titles() === 'three,two,one' && inbox.counts.total === 3")
    assert pages[0].evaluate("id => { inbox.dismiss(id); return titles(); }", second) == "three,one"
    for page in pages:
        until(page, "titles() === 'three,one' && inbox.counts.total === 2 && inbox.counts.unread === 2")
    pages[1].evaluate("inbox.readUpTo(); 0")
    for page in pages:
        until(page, "inbox.counts.unread === 0 && inbox.items.every((item) => item.read_at)")
    pages[1].evaluate("id => void inbox.restore(id)", second)
    for page in pages:
        until(page, "titles() === 'three,two,one' && inbox.counts.total === 3")
    send(site, "later")
    for page in pages:
        until(page, "titles() === 'later,three,two,one'")
        changes = page.evaluate("got.types.filter((type) => type.startsWith('notify.'))")
        assert changes == ["notify.dismissed", "notify.read", "notify.restored"]
    fresh = opened(context, site)
    until(fresh, "inbox.items.length === 4")
    strip = "JSON.stringify(inbox.items.map(({id, read_at, dismissed_at}) => [id, !read_at, dismissed_at]))"
    assert pages[0].evaluate(strip) == pages[1].evaluate(strip) == fresh.evaluate(strip)


@pytest.mark.parametrize("topic", TOPICS)
def test_topics(context: BrowserContext, site: str, topic: str) -> None:
    """Followed while the page is open; marked by the page's own position; dismissed for this user."""
    send(site, "one")
    page = opened(context, site)
    until(page, "titles() === 'one'")
    follow(site, topic)
    until(page, "got.types.includes('notify.followed')")
    send(site, "headline", topic=topic)
    until(page, "titles() === 'headline,one' && inbox.counts.unread === 2")
    page.evaluate("inbox.readUpTo(); 0")
    until(page, "inbox.counts.unread === 0 && inbox.items.every((item) => item.read_at)")
    page.evaluate("inbox.dismiss(inbox.items[0]); 0")
    until(page, "titles() === 'one' && inbox.counts.total === 1")
    assert page.evaluate("inbox.error") is None


@pytest.mark.parametrize("topic", TOPICS)
def test_a_mark_between_a_follow_and_its_page(context: BrowserContext, site: str, topic: str) -> None:
    """`readUpTo()` marks the user's items too: it waits for a page that says how positions name the user.

    What arrives while it waits stays unread.
    """
    send(site, "one")
    page = opened(context, site)
    until(page, "titles() === 'one'")
    release = hold_pages(page)
    follow(site, topic)
    send(site, "headline", topic=topic)
    until(page, "titles() === 'headline,one'")
    page.evaluate("inbox.readUpTo(); 0")
    until(page, "inbox.loading")
    send(site, "late")
    send(site, "late headline", topic=topic)
    until(page, "titles() === 'late headline,late,headline,one'")
    release()
    until(
        page, "inbox.counts.unread === 2 && inbox.items.map((item) => !item.read_at).join() === 'true,true,false,false'"
    )
    assert page.evaluate("inbox.error") is None


def test_marks_keep_their_order_while_a_page_is_awaited(context: BrowserContext, site: str) -> None:
    """An undo does not overtake a mark that waits for the page after a follow."""
    first = send(site, "one")
    page = opened(context, site)
    until(page, "titles() === 'one'")
    release = hold_pages(page)
    follow(site, "news")
    send(site, "headline", topic="news")
    until(page, "titles() === 'headline,one'")
    page.evaluate("id => { inbox.readUpTo(); window.undone = inbox.unread(id).then(() => true); }", first)
    until(page, "inbox.loading")
    release()
    assert page.evaluate("undone")
    until(page, "inbox.counts.unread === 1 && inbox.items.map((item) => !item.read_at).join() === 'false,true'")


def test_a_page_is_not_changed_by_what_came_before_it(context: BrowserContext, site: str) -> None:
    """A topic's item that was marked as unread by its id, then as read by a position, stays read after a refresh."""
    page = opened(context, site)
    follow(site, "news")
    send(site, "headline", topic="news")
    until(page, "titles() === 'headline'")
    for step in ("refresh()", "read(inbox.items)", "unread(inbox.items)", "readUpTo()", "refresh()"):
        page.evaluate(f"inbox.{step}")
    until(page, "got.types.filter((type) => type === 'notify.read').length === 2 && !inbox.loading")
    page.evaluate("inbox.refresh()")
    assert page.evaluate("inbox.items.map((item) => !item.read_at)") == [False]


def test_the_next_page_right_after_an_unfollow(context: BrowserContext, site: str) -> None:
    """The list is read again even if the page calls `more()` in between."""
    send(site, "one")
    follow(site, "news")
    send(site, "headline", topic="news")
    page = opened(context, site)
    until(page, "titles() === 'headline,one'")
    page.evaluate("got.client.on('*', ({type}) => type === 'notify.unfollowed' && void inbox.more()); 0")
    httpx.delete(f"{site}/notify/follow/news", headers=TOKEN, timeout=30).raise_for_status()
    until(page, "titles() === 'one'")


def test_pages_and_filters(context: BrowserContext, site: str) -> None:
    """25 items in pages of ten, one of them grouped; the unread ones by themselves."""
    for number in range(25):
        send(site, str(number), group="g" if number in {3, 20} else None)
    page = opened(context, site)
    page.evaluate("window.inbox = got.client.inbox({limit: 10, filter: {types: ['generic', 'other']}})")
    until(page, "inbox.items.length === 10 && inbox.hasMore")
    page.evaluate("inbox.more()")
    page.evaluate("inbox.more()")
    until(page, "inbox.items.length === 24 && !inbox.hasMore")
    page.evaluate("inbox.read(inbox.items.slice(0, 20))")
    page.evaluate("window.inbox = got.client.inbox({filter: 'unread'})")
    until(page, "titles() === '4,2,1,0'")
    page.evaluate("window.inbox = got.client.inbox({filter: {group: 'g', state: 'all'}})")
    until(page, "titles() === '20'")
    assert page.evaluate("inbox.unread({group: 'g'}).then(({ids}) => ids.length)") == 1


def test_expiry(context: BrowserContext, site: str) -> None:
    """An item with a time to live goes by itself, and the counts are told."""
    send(site, "stays")
    page = opened(context, site)
    page.evaluate("window.shown = []; inbox.subscribe(() => shown.push(titles())); 0")
    send(site, "goes", ttl=3)
    until(page, "shown.includes('goes,stays')")
    until(page, "titles() === 'stays'")
    until(page, "inbox.counts.total === 1")


def test_a_stranger(context: BrowserContext, site: str) -> None:
    """Credentials that the server refuses: the inbox says so."""
    page = context.new_page()
    page.goto(site)
    page.wait_for_function("window.ready")
    page.evaluate(OPEN, {"auth": "unknown"})
    page.evaluate("inbox.refresh().catch(() => 0)")
    until(page, "inbox.error?.status === 401 && !inbox.loading")


def test_the_bell(context: BrowserContext, site: str) -> None:
    """Two pages with bells: both numbers and both lists follow what one of them does."""
    for title in ("one", "two", "three"):
        send(site, title)
    pages = [opened(context, site), opened(context, site)]
    bells = [page.locator("notify-bell") for page in pages]
    for bell in bells:
        expect(bell.locator("[part=badge]")).to_have_text("3")
        bell.locator("[part=bell]").click()
        expect(bell.locator("article")).to_have_count(3)
    bells[0].get_by_role("button", name="Dismiss: two").click()
    for bell in bells:
        expect(bell.locator("article [part=title]")).to_have_text(["three", "one"])
        expect(bell.locator("[part=badge]")).to_have_text("2")
    bells[1].get_by_role("button", name="Mark all read").click()
    for bell in bells:
        expect(bell.locator("[part=badge]")).to_be_hidden()
    send(site, "later")
    for page in pages:
        until(page, "titles() === 'later,three,one'")
        counted = "(type) => got.types.filter((each) => each === type).length"
        assert page.evaluate(counted, "notify.dismissed") == 1
        assert page.evaluate(counted, "notify.read") == 1
