"""Tabs that share one stream: in a SharedWorker, and in a tab that holds a lock."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page

from tests.web.browser.conftest import opened, until
from tests.web.browser.scripted import Answer, Scripted, Seen

NO_WORKER = "delete window.SharedWorker;"
SHARING = {"worker": "", "lock": NO_WORKER}

THEFTS = """window.thefts = 0;
const { locks } = navigator;
const request = locks?.request.bind(locks);
if (locks) {
  locks.request = (name, how, ...rest) => {
    window.thefts += how.steal ? 1 : 0;
    return request(name, how, ...rest);
  };
}"""
"""Counts how often a tab takes the lock from another one."""


@pytest.fixture(params=["worker", "lock"])
def sharing(request: pytest.FixtureRequest, context: BrowserContext) -> str:
    """How the tabs of this test share."""
    if SHARING[request.param]:
        context.add_init_script(SHARING[request.param])
    return str(request.param)


@pytest.fixture
def locks(context: BrowserContext) -> None:
    context.add_init_script(NO_WORKER)


def tabs(context: BrowserContext, site: str, count: int, options: str = "") -> list[Page]:
    """That many tabs, all connected; the first was first."""
    pages: list[Page] = []
    for _ in range(count):
        page = opened(context, site)
        page.evaluate(f"start({options})")
        until(page, "got.client.status === 'connected'")
        pages.append(page)
    return pages


def all_have(pages: list[Page], scripted: Scripted, since: int = 0) -> None:
    """Every tab has got every event after `since`, once and in order."""
    expected = [event["id"] for event in scripted.log[since:]]
    for page in pages:
        until(page, f"got.ids.length >= {len(expected)}", 30)
        assert page.evaluate("got.ids") == expected


def wait_for(condition: Callable[[], bool], page: Page, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


@contextlib.contextmanager
def pushing(scripted: Scripted, page: Page, count: int = 20) -> Iterator[None]:
    """Events before, during and after what happens inside."""
    for number in range(count // 2):
        scripted.push(number)
    yield
    for number in range(count // 2, count):
        scripted.push(number)
        page.wait_for_timeout(10)


def test_eight_tabs_have_one_stream(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """One stream on the server at any time, and every tab gets everything."""
    pages = tabs(context, site, 8)
    with pushing(scripted, pages[0]):
        scripted.end_streams()
    all_have(pages, scripted)
    assert scripted.most == 1
    assert all(page.evaluate("got.gaps.length") == 0 for page in pages)


def test_the_worker_is_named_with_the_protocol(context: BrowserContext, site: str, chromium: Browser) -> None:
    """Another version of the client gets a worker of its own."""
    tabs(context, site, 2)
    targets = chromium.new_browser_cdp_session().send("Target.getTargets")["targetInfos"]
    (worker,) = [target for target in targets if target["type"] == "shared_worker"]
    assert worker["title"].startswith(f"notify.v1 {site}/notify ")
    assert worker["url"] == f"{site}/notify/client.js"


@pytest.mark.usefixtures("locks")
def test_without_locks_a_tab_is_alone(context: BrowserContext, site: str, scripted: Scripted) -> None:
    """An insecure context has no locks: each tab has a stream."""
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', {value: undefined});")
    pages = tabs(context, site, 2)
    scripted.push(1)
    all_have(pages, scripted)
    assert scripted.most == 2


def test_where_locks_are_denied_a_tab_is_alone(context: BrowserContext, site: str, scripted: Scripted) -> None:
    """A sandboxed frame, and a browser that blocks storage, have locks but deny them: each tab has a stream."""
    denied = "const deny = () => Promise.reject(new DOMException('denied', 'SecurityError'));"
    context.add_init_script(f"{denied} if (navigator.locks) navigator.locks.request = deny;")
    pages = tabs(context, site, 2)
    scripted.push(1)
    all_have(pages, scripted)
    assert scripted.most == 2
    pages[0].evaluate("got.client.close()")
    wait_for(lambda: scripted.open == 1, pages[0])


def test_a_worker_that_may_not_run_is_replaced(context: BrowserContext, site: str, scripted: Scripted) -> None:
    """A Content-Security-Policy that permits no worker: the tabs share by the lock, without waiting to steal it."""
    scripted.headers["content-security-policy"] = "worker-src 'none'"
    context.add_init_script(THEFTS)
    pages = tabs(context, site, 3)
    scripted.push(1)
    all_have(pages, scripted)
    assert scripted.most == 1
    assert all(page.evaluate("window.thefts") == 0 for page in pages)


def test_a_worker_that_does_nothing_is_replaced(context: BrowserContext, site: str, scripted: Scripted) -> None:
    """A bundle runs in the worker and does not answer: after a while a tab takes over."""
    context.add_init_script("window.SharedWorker = class { port = { postMessage() {} } };")
    pages = tabs(context, site, 2)
    scripted.push(1)
    all_have(pages, scripted)
    assert scripted.most == 1


def test_tabs_are_let_go(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """The stream ends with the last tab, and with the last client that is closed in a page that stays."""
    pages = tabs(context, site, 3)
    pages.pop(0).close()
    pages[0].evaluate("got.client.close()")
    scripted.push(1)
    all_have(pages[1:], scripted)
    assert pages[0].evaluate("got.ids") == []
    wait_for(lambda: scripted.open == 1, pages[0])  # the server learns of the one that was closed a little later
    pages[1].evaluate("got.client.close()")
    wait_for(lambda: scripted.open == 0, pages[0])
    pages[0].evaluate("start()")  # and another one can begin
    until(pages[0], "got.client.status === 'connected'")
    scripted.push(2)
    until(pages[0], "got.payloads.length === 1")
    assert scripted.open == 1


def test_the_leader_is_closed(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """The tab that was first is closed while events are pushed: the others miss nothing and get nothing twice."""
    first, *others = tabs(context, site, 3)
    with pushing(scripted, others[0]):
        first.close()
    all_have(others, scripted)
    wait_for(lambda: scripted.open == 1, others[0])


def test_the_leader_crashes(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """The process of the first tab dies, and with it perhaps the worker."""
    first, *others = tabs(context, site, 3)
    with pushing(scripted, others[0]), contextlib.suppress(Error):
        first.goto("chrome://crash", timeout=2000)
    all_have(others, scripted)
    wait_for(lambda: scripted.open == 1, others[0])


@pytest.mark.usefixtures("locks")
def test_a_leader_that_hangs_is_replaced_and_drops_what_it_reads(
    context: BrowserContext, site: str, scripted: Scripted
) -> None:
    """It holds lock and stream and says nothing: another tab steals the lock. Back again, it joins as others do."""
    first, *others = tabs(context, site, 3)
    scripted.settle(1)
    (led,) = scripted.streams
    released = threading.Event()

    async def hang(seen: Seen) -> None:
        while not released.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)

    scripted.routes["/hang"] = hang
    with pushing(scripted, others[0]):
        first.evaluate(
            """setTimeout(() => {
              const request = new XMLHttpRequest();
              request.open('GET', '/notify/hang', false);
              request.send();
            })"""
        )
    try:
        all_have(others, scripted)
        scripted.settle(2)  # if both have missed the pings, each may begin, and the later one ends that of the other
        assert led in scripted.streams
    finally:
        released.set()
    all_have([first], scripted)
    wait_for(lambda: scripted.open == 1, others[0])
    scripted.push("last")
    all_have([first, *others], scripted)


def test_a_tab_that_was_away_reads_what_it_lacks(
    context: BrowserContext, site: str, scripted: Scripted, sharing: str
) -> None:
    """A tab joins the stream with an old position: a request fills the space, and the others notice nothing."""
    (first,) = tabs(context, site, 1)
    for number in range(5):
        scripted.push(number)
    all_have([first], scripted)
    second = opened(context, site)
    second.evaluate("start({lastId: '1700000000000-2'})")
    until(second, "got.client.status === 'connected'")
    assert second.evaluate("got.payloads") == [2, 3, 4]
    scripted.push(5)
    all_have([second], scripted, 2)
    all_have([first], scripted)
    assert [seen.query.get("after") for seen in scripted.requests("/events")] == ["1700000000000-2"]
    assert len(scripted.requests("/stream")) == 1


def test_reading_what_is_lacking_is_repeated(
    context: BrowserContext, site: str, scripted: Scripted, sharing: str
) -> None:
    """The request fails, while events go on: each arrives once, in order."""
    (first,) = tabs(context, site, 1)
    for number in range(5):
        scripted.push(number)
    all_have([first], scripted)
    scripted.next("/events", Answer(500), Answer(503, {"retry-after": "1"}))
    second = opened(context, site)
    second.evaluate("start({lastId: '1700000000000-2'})")
    wait_for(lambda: len(scripted.requests("/events")) == 2, second)
    scripted.push(5)
    all_have([second], scripted, 2)
    until(second, "got.client.status === 'connected'")


def test_events_that_arrive_while_a_tab_reads_are_kept(
    context: BrowserContext, site: str, scripted: Scripted, sharing: str
) -> None:
    """What the stream sends after the request was answered, and before the answer has arrived, follows it."""
    (first,) = tabs(context, site, 1)
    for number in range(5):
        scripted.push(number)
    all_have([first], scripted)
    scripted.next("/events", Answer(delay=1))
    second = opened(context, site)
    second.evaluate("start({lastId: '1700000000000-2'})")
    wait_for(lambda: len(scripted.requests("/events")) == 1, second)
    second.wait_for_timeout(100)
    scripted.push(5)
    scripted.push(6)
    all_have([first], scripted)
    assert second.evaluate("got.ids") == []
    all_have([second], scripted, 2)
    assert len(scripted.requests("/events")) == 1


def test_a_reload_of_one_of_many_resumes(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """With storage, a tab that is loaded again gets what it has missed, and nothing that it had."""
    pages = tabs(context, site, 3, "{storage: sessionStorage}")
    scripted.push(1)
    all_have(pages, scripted)
    pages[0].goto("about:blank")
    scripted.push(2)
    all_have(pages[1:], scripted)
    pages[0].goto(site)
    until(pages[0], "window.ready")
    pages[0].evaluate("start({storage: sessionStorage})")
    scripted.push(3)
    all_have(pages[:1], scripted, 1)
    all_have(pages[1:], scripted)


def test_tabs_of_another_name_do_not_share(
    context: BrowserContext, site: str, scripted: Scripted, sharing: str
) -> None:
    """`share` may name who shares: tabs of different users of one browser have streams of their own."""
    tabs(context, site, 2, "{share: 'alice'}")
    (page,) = tabs(context, site, 1, "{share: 'bob'}")
    wait_for(lambda: scripted.open == 2, page)


def test_the_credentials_come_from_a_tab(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """The stream that is shared asks one of the tabs for them, and asks another when that one has gone."""
    options = """{auth: async (renew) => {
        (window.asked ??= []).push(renew); return {Authorization: `Bearer ${Math.random()}`}; }}"""
    pages = tabs(context, site, 3, options)
    pages.pop(0).close()
    scripted.next("/stream", Answer(401))
    scripted.end_streams()
    scripted.push(1)
    all_have(pages, scripted)
    assert all("authorization" in seen.headers for seen in scripted.requests("/stream"))
    asked = [page.evaluate("window.asked ?? []") for page in pages]
    assert any(True in calls for calls in asked), asked


def test_all_tabs_learn_that_it_is_over(context: BrowserContext, site: str, scripted: Scripted, sharing: str) -> None:
    """A logout closes the client of each tab; a new one may connect."""
    pages = tabs(context, site, 3)
    scripted.next("/stream", Answer(204))
    scripted.end_streams()
    for page in pages:
        until(page, "got.client.status === 'closed'")
        assert page.evaluate("got.ends") == [{"reason": "disconnected"}]
    assert 2 <= len(scripted.requests("/stream")) <= 4  # another tab may take over before it learns of the end
    pages[0].evaluate("start()")
    until(pages[0], "got.client.status === 'connected'")
    assert pages[1].evaluate("got.client.status") == "closed"
