"""`client.inbox()`: items folded from the stream, pages without a seam, and changes that are shown at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.web.browser.conftest import opened, until
from tests.web.browser.inbox_server import READ_AGAIN, InboxServer
from tests.web.browser.scripted import Answer, serving
from tests.web.pages import PATIENCE

OPEN = """({options, wanted}) => {
  start({share: false, ...options});
  window.inbox = got.client.inbox(wanted);
  window.calls = 0;
  window.errors = [];
  inbox.subscribe(() => calls++);
  window.ids = (list = inbox.items) => list.map(({id}) => id.replace('1700000000000-', ''));
  const fail = (error) => errors.push(error.status ?? error.name);
  window.run = (promise) => promise.then((answer) => (window.answer = answer), fail);
}"""


@pytest.fixture
def scripted() -> InboxServer:
    return InboxServer()


@pytest.fixture
def released(scripted: InboxServer) -> Iterator[None]:
    """A test that fails leaves no request behind."""
    yield
    for gate in scripted.gates.values():
        gate.set()


def opened_inbox(page: Page, options: dict[str, Any] | None = None, **wanted: Any) -> None:
    page.evaluate(OPEN, {"options": options or {}, "wanted": wanted})
    until(page, "!inbox.loading && got.client.status === 'connected'")


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that the server knows."""
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(10)


def shown(page: Page, *ids: object) -> None:
    until(page, f"ids().join() === '{','.join(map(str, ids))}'")


def test_items_and_counts(page: Page, scripted: InboxServer) -> None:
    """The first page, then what the stream brings; a push is not an item; counts are what the server says."""
    scripted.send("one")
    scripted.push("a push")
    scripted.send("two")
    opened_inbox(page)
    shown(page, 3, 1)
    assert page.evaluate("inbox.counts") == scripted.count()
    assert page.evaluate("[inbox.hasMore, inbox.error, inbox.loading]") == [False, None, False]
    scripted.push("another push")
    scripted.send("three")
    shown(page, 5, 3, 1)
    until(page, "inbox.counts.total === 3")
    assert page.evaluate("inbox.items[0]") == scripted.fold()[0]
    assert len(scripted.requests("/inbox")) == 1


def test_counts_are_told_and_never_added_up(page: Page, scripted: InboxServer) -> None:
    """Whatever the list holds, the numbers are those of the latest signal; an older one changes nothing."""
    opened_inbox(page)
    scripted.counts = lambda: {"total": 41, "unseen": 7, "unread": 9, "position": scripted.place()}
    scripted.send("one")
    shown(page, 1)
    until(page, "inbox.counts.total === 41")
    scripted.counts = lambda: {"total": 3, "unseen": 3, "unread": 3, "position": "1700000000000-0"}
    scripted.send("two")
    shown(page, 2, 1)
    scripted.push("later")
    until(page, "got.types.includes('note')")
    assert page.evaluate("[inbox.counts.total, inbox.counts.unseen, inbox.counts.unread]") == [41, 7, 9]


def test_a_group_replaces(page: Page, scripted: InboxServer) -> None:
    """One item of each log and group: a later one takes the place of an earlier one, also a dismissed one."""
    scripted.topics = {"news": "news"}
    first = scripted.send("10 %", group="export")
    scripted.send("other")
    scripted.send("headline", group="export", user="news")
    opened_inbox(page)
    scripted.send("20 %", group="export")
    shown(page, 4, "3@news", 2)
    scripted.change("dismissed", ids=["1700000000000-4"])
    shown(page, "3@news", 2)
    scripted.send("30 %", group="export")
    shown(page, 6, "3@news", 2)
    scripted.change("restored", ids=[first["id"]])
    wait_for(page, lambda: len(scripted.requests("/inbox")) == 2)  # it may be an item that the page does not have
    until(page, "!inbox.loading")
    shown(page, 6, "3@news", 2)


@pytest.mark.parametrize("by", ["ids", "up_to", "group", "item"])
def test_changes_of_other_devices(page: Page, scripted: InboxServer, by: str) -> None:
    """Read, unread, dismissed and restored, by each way of naming items."""
    for number in range(4):
        scripted.send(number, group="a" if number == 1 else None)
    target = {
        "ids": {"ids": ["1700000000000-2", "1700000000000-99"]},
        "up_to": {"up_to": "1700000000000-2"},
        "group": {"group": "a"},
        "item": {"ids": ["1700000000000-2"]},
    }[by]
    opened_inbox(page)
    scripted.change("seen", **target)
    until(page, "inbox.items.some((item) => item.seen_at && !item.read_at)")
    scripted.change("read", **target)
    until(page, "inbox.items.some((item) => item.read_at)")
    assert page.evaluate("inbox.items") == [item for item in scripted.fold() if not item["dismissed_at"]]
    scripted.change("dismissed", **target)
    shown(page, *([4, 3] if by == "up_to" else [4, 3, 1]))
    scripted.change("restored", **target)
    shown(page, 4, 3, 2, 1)
    scripted.change("unread", **target)
    until(page, "inbox.items.every((item) => !item.read_at)")
    assert page.evaluate("inbox.items") == scripted.fold()


@pytest.mark.usefixtures("released")
def test_no_seam_between_the_page_and_the_stream(page: Page, scripted: InboxServer) -> None:
    """What happens while the first page is on its way: nothing is missing, nothing is there twice or comes back."""
    for number in range(5):
        scripted.send(number)
    gate = scripted.gate("/inbox")
    page.evaluate(OPEN, {"options": {"lastId": "1700000000000-0"}, "wanted": {}})
    until(page, "got.types.length === 5")
    scripted.send("late")
    scripted.change("dismissed", ids=["1700000000000-2"])
    scripted.change("read", ids=["1700000000000-3"])
    until(page, "got.types.length === 8")
    gate.set()
    shown(page, 6, 5, 4, 3, 1)
    assert page.evaluate("inbox.items") == [item for item in scripted.fold() if not item["dismissed_at"]]
    until(page, "inbox.counts.total === 5 && inbox.counts.unread === 4")


@pytest.mark.usefixtures("released")
def test_a_page_that_knows_more(page: Page, scripted: InboxServer) -> None:
    """What came while the page was on its way and is not in it, although it could be, has been removed since."""
    scripted.is_late = True
    gate = scripted.gate("/inbox")
    page.evaluate(OPEN, {"options": {}, "wanted": {}})
    until(page, "got.client.status === 'connected'")
    wait_for(page, lambda: "/inbox" in scripted.held)
    scripted.send("kept")
    scripted.send("removed by retention")
    until(page, "got.types.length === 2")
    scripted.lost.add("1700000000000-2")
    gate.set()
    shown(page, 1)
    scripted.send("new")
    shown(page, 3, 1)


@pytest.mark.usefixtures("released")
def test_no_seam_between_pages(page: Page, scripted: InboxServer) -> None:
    """Items arrive, are replaced and are dismissed while further pages are read."""
    for number in range(12):
        scripted.send(number, group="g" if number == 3 else None)
    opened_inbox(page, limit=4)
    shown(page, 12, 11, 10, 9)
    assert page.evaluate("inbox.hasMore") is True
    scripted.send("new")
    scripted.change("dismissed", ids=["1700000000000-10"])
    shown(page, 13, 12, 11, 9)
    gate = scripted.gate("/inbox")
    page.evaluate("void run(inbox.more())")
    wait_for(page, lambda: "/inbox" in scripted.held)
    scripted.send("newer")
    scripted.change("dismissed", ids=["1700000000000-7"])
    until(page, "got.types.length === 4")
    gate.set()
    shown(page, 15, 13, 12, 11, 9, 8, 6, 5)
    scripted.send("in its place", group="g")
    shown(page, 17, 15, 13, 12, 11, 9, 8, 6, 5)
    page.evaluate("run(Promise.all([inbox.more(), inbox.more(), inbox.more()]))")
    shown(page, 17, 15, 13, 12, 11, 9, 8, 6, 5, 3, 2, 1)
    until(page, "!inbox.hasMore")
    assert page.evaluate("inbox.items") == [item for item in scripted.fold() if not item["dismissed_at"]]


@pytest.mark.usefixtures("released")
def test_a_group_while_a_page_is_read(page: Page, scripted: InboxServer) -> None:
    """A change of a group is applied again when the page arrives, but not to the group's later item."""
    for number in range(6):
        scripted.send(number, group="g" if number == 5 else None)
    opened_inbox(page, limit=4)
    gate = scripted.gate("/inbox")
    page.evaluate("void run(inbox.more())")
    wait_for(page, lambda: "/inbox" in scripted.held)
    scripted.change("dismissed", group="g")
    scripted.send("later", group="g")
    until(page, "got.types.length === 2")
    gate.set()
    shown(page, 8, 5, 4, 3, 2, 1)


def test_an_optimistic_change(page: Page, scripted: InboxServer) -> None:
    """It is shown at once, and confirmed; its event arrives once, as on every other device."""
    for number in range(3):
        scripted.send(number)
    opened_inbox(page)
    gate = scripted.gate("/inbox/mark")
    at_once = page.evaluate("run(inbox.dismiss('1700000000000-2')), ids()")
    assert at_once == ["3", "1"]
    until(page, "got.types.includes('notify.dismissed')")
    gate.set()
    until(page, "window.answer")
    shown(page, 3, 1)
    until(page, "inbox.counts.total === 2")
    scripted.push("later")
    until(page, "got.types.includes('note')")
    assert page.evaluate("got.types") == ["notify.dismissed", "note"]
    assert scripted.requests("/inbox/mark")[0].body == {"state": "dismissed", "ids": ["1700000000000-2"]}
    page.evaluate("run(inbox.restore(['1700000000000-2']))")
    shown(page, 3, 2, 1)
    page.evaluate("run(inbox.unread(inbox.items[1]))")
    until(page, "inbox.items[1].read_at === null")
    page.evaluate("run(inbox.read({ids: ['1700000000000-1']}))")
    until(page, "inbox.items[2].read_at")
    assert [seen.body["state"] for seen in scripted.requests("/inbox/mark")] == [
        "dismissed",
        "restored",
        "unread",
        "read",
    ]


@pytest.mark.parametrize("how", ["refused", "away"])
def test_a_change_that_fails_is_taken_back(page: Page, scripted: InboxServer, how: str) -> None:
    """The server refuses, or cannot be reached: the items are as before, the promise rejects, `error` says why."""
    scripted.send("one")
    scripted.send("two")
    opened_inbox(page)
    if how == "refused":
        scripted.always["/inbox/mark"] = Answer(status=503)
    else:
        page.context.route("**/inbox/mark", lambda route: route.abort())
    assert page.evaluate("run(inbox.dismiss('1700000000000-2')), ids()") == ["1"]
    shown(page, 2, 1)
    until(page, "errors.length === 1 && inbox.error")
    assert page.evaluate("errors") == [503 if how == "refused" else "TypeError"]
    scripted.always.clear()
    page.context.unroute("**/inbox/mark")
    page.evaluate("run(inbox.dismiss('1700000000000-2'))")
    until(page, "window.answer")
    shown(page, 1)
    assert page.evaluate("inbox.error") is None


def test_changes_keep_their_order(page: Page, scripted: InboxServer) -> None:
    """A dismissal and its undo reach the server in this order, however slow the first one is."""
    scripted.send("one")
    opened_inbox(page)
    gate = scripted.gate("/inbox/mark")
    page.evaluate("inbox.dismiss('1700000000000-1'), void run(inbox.restore('1700000000000-1'))")
    assert page.evaluate("ids()") == ["1"]
    wait_for(page, lambda: "/inbox/mark" in scripted.held)
    page.evaluate("inbox.refresh()")  # a later request, which is answered
    assert len(scripted.requests("/inbox/mark")) == 1
    gate.set()
    until(page, "window.answer")
    until(page, "got.types.length === 2")
    assert page.evaluate("got.types") == ["notify.dismissed", "notify.restored"]
    shown(page, 1)


def test_another_device_is_later(page: Page, scripted: InboxServer) -> None:
    """The other device's change came after ours: it stands, although ours was answered late."""
    scripted.send("one")
    opened_inbox(page)
    gate = scripted.gate("/inbox/mark")
    page.evaluate("void run(inbox.read('1700000000000-1'))")
    until(page, "got.types.length === 1")
    scripted.change("unread", ids=["1700000000000-1"])
    until(page, "got.types.length === 2")
    gate.set()
    until(page, "window.answer")
    until(page, "inbox.items[0].read_at === null")


def test_a_change_of_what_is_so_already(page: Page, scripted: InboxServer) -> None:
    """The server stores nothing: what is shown stays what the server has."""
    scripted.send("one")
    scripted.change("read", ids=["1700000000000-1"])
    opened_inbox(page)
    before = page.evaluate("inbox.items")
    page.evaluate("run(inbox.read('1700000000000-1'))")
    until(page, "window.answer")
    assert page.evaluate("answer.event") is None
    assert page.evaluate("inbox.items") == before
    assert page.evaluate("got.types") == []


def test_read_up_to_what_is_shown(page: Page, scripted: InboxServer) -> None:
    """`readUpTo()` and `seen()` name the position of what this page has, not of what the server has."""
    scripted.topics = {"news:sport": "news_3Asport"}
    scripted.send("one")
    scripted.send("headline", user="news:sport")
    opened_inbox(page)
    scripted.send("two")
    scripted.send("score", user="news:sport")
    shown(page, "4@news:sport", 3, "2@news:sport", 1)
    page.evaluate("run(inbox.seen())")
    until(page, "window.answer")
    one = "1700000000000"
    assert scripted.requests("/inbox/mark")[0].body == {
        "state": "seen",
        "up_to": f"m1.alice.{one}-3.news_3Asport.{one}-4",
    }
    page.evaluate("run(inbox.readUpTo('1700000000000-2@news:sport'))")
    until(page, "inbox.items[2].read_at")
    assert [bool(item) for item in page.evaluate("inbox.items.map((item) => item.read_at)")] == [
        False,
        False,
        True,
        False,
    ]
    page.evaluate("run(inbox.readUpTo(inbox.items[1].id))")
    until(page, "inbox.items[3].read_at && inbox.items[1].read_at && !inbox.items[0].read_at")


def test_a_position_that_cannot_be_read(page: Page, scripted: InboxServer) -> None:
    """The name of a topic is a hash in the position: the list is read again."""
    topic = "a topic with a name that is too long"
    scripted.topics = {topic: "~" + 22 * "x"}
    scripted.send("one")
    scripted.send("headline", user=topic)
    opened_inbox(page)
    scripted.change("read", up_to=scripted.place())
    until(page, "inbox.items.every((item) => item.read_at)")
    assert len(scripted.requests("/inbox")) > 1
    scripted.send("later")
    shown(page, 4, f"2@{topic}", 1)
    page.wait_for_timeout(500)  # time for ten requests, if each of them led to the next one
    assert len(scripted.requests("/inbox")) <= 3


def test_topics(page: Page, scripted: InboxServer) -> None:
    """Items of a log that is followed, also from now on; those of an address that is not are no items of this inbox."""
    scripted.send("one")
    scripted.send("headline", user="news")
    opened_inbox(page)
    shown(page, 1)
    scripted.send("another", user="news")
    until(page, "got.types.length === 1")
    shown(page, 1)
    scripted.topics = {"news": "news"}
    scripted.push({"topic": "news", "since": "1700000000000-1"}, type="notify.followed")
    shown(page, "3@news", "2@news", 1)
    scripted.send("live", user="news")
    shown(page, "5@news", "3@news", "2@news", 1)
    page.evaluate("run(inbox.dismiss(inbox.items[1]))")
    shown(page, "5@news", "2@news", 1)
    scripted.topics = {}
    scripted.push({"topic": "news"}, type="notify.unfollowed")
    shown(page, 1)


def test_an_item_that_comes_after_its_change(page: Page, scripted: InboxServer) -> None:
    """Two logs have no common order on the wire: a topic's item that was dismissed already does not appear."""
    scripted.topics = {"news": "news"}
    opened_inbox(page)
    scripted.change("dismissed", ids=["1700000000000-2@news"])
    scripted.send("headline", user="news")
    scripted.send("mine")
    shown(page, 3)


def test_a_group_of_a_topic_that_comes_after_its_change(page: Page, scripted: InboxServer) -> None:
    """Only a page tells whether the topic's item came before a change of its group."""
    scripted.topics = {"news": "news"}
    scripted.send("mine")
    opened_inbox(page)
    scripted.change("dismissed", group="g")
    until(page, "got.types.length === 1")
    scripted.lost.add("1700000000000-3@news")  # was dismissed
    scripted.send("headline", user="news", group="g")
    until(page, "got.types.length === 2")
    shown(page, 1)


def test_an_event_that_is_older_than_the_page(page: Page, scripted: InboxServer) -> None:
    """An event up to the page's position that the page lacks was removed, even if the position has only a hash."""
    topic = "a topic with a name that is too long"
    scripted.topics = {topic: "~" + 22 * "x"}
    scripted.send("one")
    scripted.push("a push")
    opened_inbox(page)
    scripted.lost.add(f"1700000000000-2@{topic}")
    scripted.send("removed", user=topic, id="1700000000000-2")
    scripted.send("new", user=topic)
    shown(page, f"4@{topic}", 1)
    assert len(scripted.requests("/inbox")) == 1


def test_expiry(page: Page, scripted: InboxServer) -> None:
    """An item whose time has come is not shown, without a word of the server."""
    scripted.send("stays")
    opened_inbox(page)
    page.evaluate("window.shown = []; inbox.subscribe(() => shown.push(ids().join())); 0")
    scripted.send("goes", expires_at=(datetime.now(UTC) + timedelta(seconds=3)).isoformat())
    until(page, "shown.includes('2,1') && shown.at(-1) === '1'")


@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ("unread", [4, 3]), ({"state": "read"}, [2]), ({"state": "dismissed"}, [1]), ({"state": "all"}, [4, 3, 2, 1]),
        ({"types": ["order"]}, [3]), ({"group": "g"}, [4]), ({"types": ["order", "generic"]}, [4, 3, 2]),
    ],
)  # fmt: skip
def test_filters(page: Page, scripted: InboxServer, filter: Any, wanted: list[int]) -> None:
    """Lists of one state, of types, of a group; they keep to that with what the stream brings."""
    scripted.send(1)
    scripted.send(2)
    scripted.send(3, type="order")
    scripted.send(4, group="g")
    scripted.change("dismissed", ids=["1700000000000-1"])
    scripted.change("read", ids=["1700000000000-2"])
    opened_inbox(page, filter=filter)
    shown(page, *wanted)
    changes = (("unread", 2), ("read", 3), ("dismissed", 3), ("restored", 1), ("unread", 1), ("dismissed", 2))
    for state, number in changes:
        scripted.change(state, ids=[f"1700000000000-{number}"])
        state_of = filter if isinstance(filter, str) else filter.get("state", "active")
        query = {"state": state_of}
        if isinstance(filter, dict):
            query |= {"types": ",".join(filter.get("types", ())), "group": filter.get("group", "")}
        shown(page, *(expected(scripted, query)))


def expected(scripted: InboxServer, query: dict[str, str]) -> list[str]:
    return [item["id"].replace("1700000000000-", "") for item in scripted.page(query)["items"]]


def test_a_gap_reads_again(page: Page, scripted: InboxServer) -> None:
    """Continuity cannot be proven: the list is read from its source."""
    scripted.send("one")
    opened_inbox(page, {"transports": ["poll"]})
    gap = {"reason": "trimmed", "from": "1", "to": "2"}
    scripted.log[0]["type"] = "gone"
    del scripted.log[0]["item"]
    scripted.next("/events", Answer(gap=gap))
    scripted.end_streams()
    shown(page)


@pytest.mark.parametrize("transport", ["fetch", "eventsource", "poll", "websocket"])
def test_each_transport(page: Page, scripted: InboxServer, transport: str) -> None:
    """Items, changes and counts arrive by each of them, and after a connection that was lost."""
    opened_inbox(page, {"transports": [transport]})
    scripted.send("one")
    shown(page, 1)
    scripted.end_streams()
    scripted.send("two")
    scripted.change("read", ids=["1700000000000-1"])
    shown(page, 2, 1)
    if transport != "poll":
        until(page, "inbox.counts.total === 2 && inbox.counts.unread === 1")
    until(page, "inbox.items[1].read_at")
    assert len(scripted.requests("/inbox")) <= 2


def test_what_came_before_the_stream(page: Page, scripted: InboxServer) -> None:
    """The list was read before there was a stream: it is read again, so nothing that came in between is missing."""
    scripted.next("/stream", Answer(status=503, headers={"retry-after": "1"}))
    page.evaluate(OPEN, {"options": {}, "wanted": {}})
    page.evaluate("run(inbox.refresh())")
    until(page, "!inbox.loading && got.client.status === 'connecting'")
    scripted.send("in between")
    shown(page, 1)


def test_credentials(page: Page, scripted: InboxServer) -> None:
    """Headers or a ticket, as `auth` gives them; refused once, they are renewed."""
    scripted.send("one")
    page.evaluate(OPEN, {"options": {}, "wanted": {}})
    page.evaluate("got.client.close()")
    scripted.seen.clear()
    page.evaluate(
        """() => {
          window.asked = [];
          const auth = (renew) => (asked.push(renew), {Authorization: renew ? 'new' : 'old'});
          window.other = connect('/notify', {share: false, auth});
          window.inbox = other.inbox();
        }"""
    )
    shown(page, 1)
    assert {seen.headers["authorization"] for seen in scripted.requests("/inbox")} == {"old"}
    scripted.next("/inbox/mark", Answer(status=401))
    page.evaluate("run(inbox.read('1700000000000-1'))")
    until(page, "window.answer")
    assert [seen.headers["authorization"] for seen in scripted.requests("/inbox/mark")] == ["old", "new"]
    page.evaluate("window.inbox = connect('/notify', {share: false, auth: () => 'single'}).inbox()")
    shown(page, 1)
    assert scripted.requests("/inbox")[-1].query["ticket"] == "single"


def test_a_list_that_cannot_be_read(page: Page, scripted: InboxServer) -> None:
    """`error` says so, `refresh` tries again; nothing is left unhandled."""
    scripted.send("one")
    scripted.next("/inbox", Answer(status=500))
    opened_inbox(page)
    until(page, "inbox.error?.status === 500 || inbox.items.length === 1")
    scripted.always["/inbox"] = Answer(status=403)
    page.evaluate("run(inbox.refresh())")
    until(page, "errors.join() === '403' && inbox.error.status === 403")
    scripted.always.clear()
    page.evaluate("run(inbox.refresh())")
    shown(page, 1)
    until(page, "inbox.error === undefined")


@pytest.mark.parametrize("call", ["read('1700000000000-1')", "more()"])
def test_a_list_that_is_behind(page: Page, scripted: InboxServer, call: str) -> None:
    """If it could not be read again after an unfollow, it is read after the next request that succeeds."""
    scripted.topics = {"news": "news"}
    for number in range(4):
        scripted.send(number)
    scripted.send("headline", user="news")
    opened_inbox(page, limit=3)
    shown(page, "5@news", 4, 3)
    scripted.topics = {}
    scripted.next("/inbox", Answer(status=503))
    scripted.push({"topic": "news"}, type="notify.unfollowed")
    until(page, "inbox.error?.status === 503 && !inbox.loading")
    page.evaluate(f"run(inbox.{call})")
    until(page, "inbox.error === undefined && !ids().includes('5@news')")


def test_a_part_of_a_mark_that_fails(page: Page, scripted: InboxServer) -> None:
    """Items of a log with a long name are marked by their ids: if that is refused, the promise rejects.

    `error` says so, too, though the other part of the mark has succeeded.
    """
    topic = "a topic with a name that is too long"
    scripted.topics = {topic: "~" + 22 * "x"}
    scripted.send("one")
    scripted.send("headline", user=topic)
    opened_inbox(page)
    scripted.next("/inbox/mark", Answer(status=503))
    page.evaluate("run(inbox.readUpTo())")
    assert page.evaluate("errors") == [503]
    assert page.evaluate("inbox.error.status") == 503
    assert len(scripted.requests("/inbox/mark")) == 2


def test_closed_before_it_is_read_again(page: Page, scripted: InboxServer) -> None:
    """A closed inbox sends no further request, while a second one, whose turn is later, reads its list again."""
    opened_inbox(page)
    page.evaluate("got.client.on('*', () => inbox.close()); window.other = got.client.inbox(); 0")
    until(page, "!other.loading")
    page.evaluate(f"({READ_AGAIN})(other)")
    scripted.push({"topic": "news"}, type="notify.unfollowed")
    until(page, "window.readAgain")
    assert len(scripted.requests("/inbox")) == 3  # two of the second one


def test_without_the_module(page: Page, scripted: InboxServer) -> None:
    """A deployment without `inbox.js`: an error, and the client works on."""
    scripted.always["/inbox.js"] = Answer(status=404)
    page.evaluate(OPEN, {"options": {}, "wanted": {}})
    until(page, "inbox.error && !inbox.loading")
    page.evaluate("run(inbox.refresh())")
    until(page, "errors.length === 1")
    scripted.push(1)
    until(page, "got.payloads.length === 1")


def test_before_the_module_is_there(page: Page, scripted: InboxServer) -> None:
    """`client.inbox()` returns at once; what is called before its module has come happens afterwards."""
    scripted.send("one")
    page.evaluate(
        """() => {
          start({share: false});
          window.inbox = got.client.inbox();
          window.first = [inbox.items.length, inbox.counts.total, inbox.loading, inbox.hasMore];
          inbox.read('1700000000000-1');
          window.ids = () => inbox.items.map(({id, read_at}) => (read_at ? 'read' : id));
        }"""
    )
    assert page.evaluate("first") == [0, 0, True, False]
    shown(page, "read")


def test_marks_before_there_is_a_list(page: Page, scripted: InboxServer) -> None:
    """What is meant is what the list will have: it is read first."""
    scripted.send("one")
    page.evaluate("start({share: false}); inbox = got.client.inbox(); inbox.seen(); void inbox.readUpTo()")
    until(page, "inbox.items[0]?.read_at && inbox.counts.unread === 0")
    first, second = [seen.body["up_to"] for seen in scripted.requests("/inbox/mark")]
    assert first == "1700000000000-1"
    assert second in ("1700000000000-1", "1700000000000-2")  # the latter is the first mark, if the stream brought it


def test_a_mark_while_the_first_page_is_awaited(page: Page, scripted: InboxServer) -> None:
    """What is meant is what the server has counted at that time: what is sent afterwards stays unread."""
    scripted.send("one")
    scripted.is_late = True
    gate = scripted.gate("/inbox")
    page.evaluate("import('/notify/inbox.js').then(() => {})")  # before the stream tells the counts
    page.evaluate(OPEN, {"options": {}, "wanted": {}})
    until(page, "inbox.counts.unread === 1")
    page.evaluate("void run(inbox.readUpTo())")
    scripted.send("late")
    until(page, "got.types.includes('generic')")
    gate.set()
    until(page, "window.answer")
    assert [seen.body["up_to"] for seen in scripted.requests("/inbox/mark")] == ["1700000000000-1"]
    until(page, "inbox.items.map((item) => !item.read_at).join() === 'true,false'")


def test_subscribers(page: Page, scripted: InboxServer) -> None:
    """Each is called with the inbox; one that fails reaches no other; removed, it is not called; `close` ends it."""
    opened_inbox(page)
    page.evaluate(
        """() => {
          window.reported = 0;
          window.reportError = () => reported++;
          inbox.subscribe(() => { throw Error(); });
          window.seen = 0;
          window.remove = inbox.subscribe((given) => (seen += given === inbox));
        }"""
    )
    scripted.send("one")
    until(page, "seen > 0 && reported > 0")
    shown(page, 1)
    page.evaluate("remove(), (seen = 0), inbox.close()")
    scripted.send("two")
    scripted.send("three")
    until(page, "got.types.length === 3")
    assert page.evaluate("[seen, ids().join()]") == [0, "1"]


@pytest.mark.parametrize("sharing", ["worker", "lock", "alone"])
def test_two_tabs(context: BrowserContext, site: str, scripted: InboxServer, sharing: str) -> None:
    """Dismissed in one: gone in both, one event on each, one stream."""
    if sharing == "lock":
        context.add_init_script("delete window.SharedWorker;")
    scripted.send("one")
    scripted.send("two")
    tabs = [opened(context, site), opened(context, site)]
    for tab in tabs:
        opened_inbox(tab, {"share": sharing != "alone"})
        shown(tab, 2, 1)
    tabs[0].evaluate("run(inbox.dismiss(inbox.items[0]))")
    for tab in tabs:
        shown(tab, 1)
        until(tab, "inbox.counts.total === 1")
    scripted.push("later")
    for tab in tabs:
        until(tab, "got.types.includes('note')")
        assert tab.evaluate("got.types") == ["notify.dismissed", "note"]
    assert scripted.open == (2 if sharing == "alone" else 1)


def test_many(page: Page, scripted: InboxServer) -> None:
    """300 items and 100 changes while pages are read: the list is the fold of all of them."""
    for number in range(200):
        scripted.send(number)
    opened_inbox(page, limit=50)
    page.evaluate("(async () => { while (inbox.hasMore) await inbox.more(); window.done = true; })()")
    for number in range(100):
        scripted.send(200 + number)
        state = ("dismissed", "read", "restored", "unread")[number % 4]
        scripted.change(state, ids=[f"1700000000000-{1 + number // 4 * 7}"])
        page.wait_for_timeout(2)
    until(page, "window.done && !inbox.loading")
    until(page, "got.types.length >= 200")
    expected_items = [item for item in scripted.fold() if not item["dismissed_at"]]
    more = "inbox.hasMore ? (inbox.loading || inbox.more(), false)"  # a refresh after the last page begins anew
    until(page, f"{more} : inbox.items.length === {len(expected_items)}")
    assert page.evaluate("inbox.items") == expected_items


def test_serving() -> None:
    """The server of these tests stops."""
    with serving(InboxServer()) as url:
        assert url
