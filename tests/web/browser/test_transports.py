"""The client over each transport, against a server that follows a script."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.web.browser.conftest import opened, until
from tests.web.browser.scripted import Answer, Scripted

TRANSPORTS = ["fetch", "eventsource", "poll", "websocket"]
PATHS = {"fetch": "/stream", "eventsource": "/stream", "poll": "/events", "websocket": "/ws"}


def start(page: Page, **options: Any) -> None:
    page.evaluate("options => start(options)", {"share": False, **options})


def connected(page: Page) -> None:
    until(page, "got.client.status === 'connected'")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_events_arrive_in_order_over_broken_connections(page: Page, scripted: Scripted, transport: str) -> None:
    """Whatever the transport, and however often a connection ends, each event arrives once and in order."""
    start(page, transports=[transport])
    connected(page)
    for number in range(30):
        scripted.push(number)
        if number % 10 == 5:
            scripted.end_streams()
            scripted.push("away", type="away")
    until(page, "got.types.length >= 33")
    assert page.evaluate("got.payloads.filter((p) => p !== 'away')") == list(range(30))
    assert page.evaluate("got.client.lastId") == scripted.log[-1]["id"]
    assert page.evaluate("got.statuses.slice(0, 2)") == ["connecting", "connected"]
    assert page.evaluate("got.gaps.length") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_position_is_where_it_starts(page: Page, scripted: Scripted, transport: str) -> None:
    """With `lastId`, what came after it is delivered before the client says that it is connected."""
    for number in range(5):
        scripted.push(number)
    page.evaluate("window.atSync = undefined")
    page.evaluate(
        "options => { start(options); got.client.on('sync', () => { window.atSync = got.payloads.length; }); }",
        {"share": False, "transports": [transport], "lastId": scripted.log[1]["id"]},
    )
    connected(page)
    assert page.evaluate("got.payloads") == [2, 3, 4]
    assert page.evaluate("atSync") == 3
    assert page.evaluate("got.syncs[0].position") == scripted.log[-1]["id"]


def test_without_a_position_it_starts_from_now(page: Page, scripted: Scripted) -> None:
    """Events from before the connection are not delivered."""
    scripted.push("before")
    start(page)
    connected(page)
    scripted.push("after")
    until(page, "got.payloads.length > 0")
    assert page.evaluate("got.payloads") == ["after"]


def test_a_gap_without_events_is_told_once(page: Page, scripted: Scripted) -> None:
    """A poll finds that everything after its position is gone: the next one asks from after the gap."""
    start(page, transports=["poll"], heartbeat=0.2)
    connected(page)
    gap = {"reason": "expired", "from": "1700000000000-0", "to": "1700000000000-1", "user": "alice"}
    scripted.next("/events", Answer(gap=gap))
    until(page, "got.gaps.length === 1")
    scripted.push("next")
    until(page, "got.payloads.includes('next')")
    assert page.evaluate("got.gaps") == [gap]
    assert page.evaluate("got.payloads") == ["next"]


def test_an_ephemeral_event_has_no_id_and_moves_nothing(page: Page, scripted: Scripted) -> None:
    """It reaches the handlers; the position stays."""
    start(page)
    connected(page)
    position = page.evaluate("got.client.lastId")
    scripted.ephemeral += [{"user": "alice", "type": "typing", "payload": number} for number in range(2)]
    until(page, "got.types.length === 2")
    assert page.evaluate("got.types") == ["typing", "typing"]
    assert page.evaluate("got.client.lastId") == position


ANOTHER = """(transport) => {
  dispatchEvent(new Event('online'));
  start({share: false, transports: [transport]}, 'other');
}"""
"""A client that waits to try again does so when the browser is online; then a second one sends its first request."""


@pytest.mark.parametrize("transport", ["fetch", "poll"])
@pytest.mark.parametrize(("status", "reason"), [(204, "disconnected"), (401, "expired"), (403, "forbidden")])
def test_a_refusal_ends_it(page: Page, scripted: Scripted, transport: str, status: int, reason: str) -> None:
    """204, 401 without an `auth` to ask again, and 403: closed after one request, and the reason is told."""
    scripted.always[PATHS[transport]] = Answer(status)
    start(page, transports=[transport])
    until(page, "got.client.status === 'closed'")
    assert page.evaluate("got.ends") == [{"reason": reason}]
    assert page.evaluate("clients.size") == 0
    page.evaluate(ANOTHER, transport)
    until(page, "other.client.status === 'closed'")
    assert len(scripted.requests(PATHS[transport])) == 2


def test_an_eventsource_that_is_refused_finds_out_why(page: Page, scripted: Scripted) -> None:
    """EventSource hides the status; a request shows it."""
    scripted.always["/stream"] = scripted.always["/events"] = Answer(403)
    start(page, transports=["eventsource"])
    until(page, "got.client.status === 'closed'")
    assert page.evaluate("got.ends") == [{"reason": "forbidden"}]
    assert len(scripted.requests("/stream")) == 1


@pytest.mark.parametrize("transport", ["fetch", "eventsource"])
def test_the_end_disconnected_is_final(page: Page, scripted: Scripted, transport: str) -> None:
    """After `disconnected` the client is closed and stays closed."""
    scripted.next("/stream", Answer(end={"reason": "disconnected", "retry": 10}))
    page.evaluate("t => start({share: false, transports: [t]})", transport)
    until(page, "got.client.status === 'closed'")
    assert page.evaluate("got.ends") == [{"reason": "disconnected"}]
    page.evaluate(ANOTHER, transport)
    until(page, "other.client.status === 'connected'")
    assert len(scripted.requests("/stream")) == 2


def test_the_server_says_when_to_come_back(page: Page, scripted: Scripted) -> None:
    """The `retry` of an end is obeyed, and `online` does not cut it short."""
    scripted.next("/stream", Answer(end={"reason": "replaced", "retry": 1200}))
    start(page)
    until(page, "got.ends.length === 1")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    until(page, "got.statuses.filter((s) => s === 'connected').length === 2")
    first, second = scripted.requests("/stream")
    assert second.at - first.at > 1.1
    assert page.evaluate("got.ends") == [{"reason": "replaced", "retry": 1200}]
    assert page.evaluate("got.statuses") == ["connecting", "connected", "reconnecting", "connected"]


def test_retry_after_is_obeyed(page: Page, scripted: Scripted) -> None:
    """An overloaded server names the time in a header."""
    scripted.next("/stream", Answer(503, {"retry-after": "1"}))
    start(page)
    connected(page)
    first, second = scripted.requests("/stream")
    assert second.at - first.at > 0.95


def test_the_back_off_grows_and_is_not_regular(page: Page, scripted: Scripted) -> None:
    """Failures in a row are spaced out, with jitter; `online` ends the waiting."""
    start(page, transports=["fetch"])
    connected(page)
    scripted.retry = 50
    scripted.always["/stream"] = Answer(500)
    scripted.end_streams()
    until(page, "got.client.status === 'reconnecting'")
    deadline = time.monotonic() + 30
    while len(scripted.requests("/stream")) < 7:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    times = [seen.at for seen in scripted.requests("/stream")][1:7]
    pauses = [after - before for before, after in pairwise(times)]
    least = [0.025 * 2**number for number in range(5)]  # 50 ms doubled each time, less at most half
    assert all(pause > 0.9 * wait for pause, wait in zip(pauses, least, strict=True)), pauses
    scripted.always.clear()
    page.evaluate("window.dispatchEvent(new Event('online'))")
    connected(page)


def test_expired_credentials_are_asked_for_again_once(page: Page, scripted: Scripted) -> None:
    """401: `auth` is called again with true. A second 401 ends it; success starts the count again."""
    page.evaluate(
        """window.calls = []; start({share: false, auth: (renew) => {
            calls.push(renew); return {Authorization: `Bearer ${calls.length}`}; }})"""
    )
    connected(page)
    scripted.next("/stream", Answer(401))
    scripted.end_streams()
    until(page, "calls.length === 3")
    connected(page)
    assert page.evaluate("calls") == [False, False, True]
    scripted.next("/stream", Answer(401), Answer(401))
    scripted.end_streams()
    until(page, "got.client.status === 'closed'")
    assert page.evaluate("calls") == [False, False, True, False, True]
    assert page.evaluate("got.ends") == [{"reason": "expired"}]
    authorizations = [seen.headers.get("authorization") for seen in scripted.requests("/stream")]
    assert authorizations == [f"Bearer {number}" for number in range(1, 6)]


def test_an_expired_stream_comes_back_with_new_credentials(page: Page, scripted: Scripted) -> None:
    """The end `expired` in mid-stream: `auth` is asked again at once, and the stream resumes."""
    scripted.next("/stream", Answer(end={"reason": "expired", "retry": 10}))
    page.evaluate(
        "window.calls = []; start({share: false, auth: async (renew) => { calls.push(renew); return {a: 'b'}; }})"
    )
    until(page, "got.statuses.filter((s) => s === 'connected').length === 2")
    assert page.evaluate("calls") == [False, True]


@pytest.mark.parametrize("transport", ["eventsource", "websocket"])
def test_headers_become_a_ticket_for_each_connection(page: Page, scripted: Scripted, transport: str) -> None:
    """Where no header can be sent, a ticket is fetched with them; a new one for each connection."""
    page.evaluate(
        "t => start({share: false, transports: [t], auth: {Authorization: 'Bearer secret'}})",
        transport,
    )
    connected(page)
    scripted.end_streams()
    until(page, "got.statuses.filter((s) => s === 'connected').length === 2")
    tickets = scripted.requests("/ticket")
    assert len(tickets) == 2
    assert {seen.headers["authorization"] for seen in tickets} == {"Bearer secret"}
    assert {(seen.method, seen.headers["content-type"]) for seen in tickets} == {("POST", "application/json")}
    streams = scripted.requests(PATHS[transport])
    if transport == "eventsource":
        used = [seen.query["ticket"] for seen in streams]
    else:
        assert {seen.headers["subprotocols"].partition(",")[0] for seen in streams} == {"notify.v1"}
        used = [seen.headers["subprotocols"].rpartition("ticket.")[2] for seen in streams]
        assert all("ticket" not in seen.query for seen in streams)
    assert len(set(used)) == 2


@pytest.mark.parametrize("transport", ["fetch", "eventsource", "poll"])
def test_auth_may_give_the_ticket_itself(page: Page, scripted: Scripted, transport: str) -> None:
    """A ticket from the application's own endpoint; one for each request."""
    page.evaluate(
        "t => { let n = 0; start({share: false, transports: [t], heartbeat: 0.2, auth: () => `own${++n}`}); }",
        transport,
    )
    connected(page)
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    scripted.end_streams()
    scripted.push(2)
    until(page, "got.payloads.length === 2")
    used = [seen.query["ticket"] for seen in scripted.requests(PATHS[transport])]
    assert len(used) >= 2
    assert len(set(used)) == len(used)
    assert scripted.requests("/ticket") == []


def test_an_auth_that_fails_is_tried_again(page: Page, scripted: Scripted) -> None:
    """The token service is down for a moment: nothing is sent without credentials."""
    page.evaluate(
        """let n = 0; start({share: false, auth: async () => {
            if (!n++) throw new Error('away'); return {Authorization: 'x'}; }})"""
    )
    connected(page)
    assert [seen.headers.get("authorization") for seen in scripted.requests("/stream")] == ["x"]


def test_silence_changes_the_transport(page: Page, scripted: Scripted) -> None:
    """What holds streams back is found out by the silence: fetch, then EventSource, then polling."""
    scripted.always["/stream"] = Answer(hold=True)
    start(page, heartbeat=0.3)
    connected(page)
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    assert scripted.requests("/events")
    accepts = [seen.headers["accept"] for seen in scripted.requests("/stream")]
    assert accepts[:2] == ["*/*", "text/event-stream"]


def test_polling_is_not_for_good(page: Page, scripted: Scripted) -> None:
    """After ten minutes the first transport is tried again: what held streams back may be gone. Nothing is lost."""
    scripted.always["/stream"] = Answer(hold=True)
    start(page, heartbeat=0.3)
    connected(page)
    assert scripted.requests("/events")
    tried = len(scripted.requests("/stream"))
    scripted.push(1)
    until(page, "got.payloads.length === 1")
    del scripted.always["/stream"]
    scripted.push(2)
    until(page, "got.payloads.length === 2")
    assert len(scripted.requests("/stream")) == tried
    page.evaluate("const now = Date.now; Date.now = () => now() + 600_000")
    scripted.push(3)
    until(page, "got.statuses.at(-1) === 'connected' && got.syncs.length === 2")
    first, *_ = scripted.requests("/stream")[tried:]
    assert first.headers["accept"] == "*/*", "fetch"
    scripted.push(4)
    until(page, "got.payloads.length >= 4")
    assert page.evaluate("got.payloads") == [1, 2, 3, 4]


def test_a_connection_that_falls_silent_is_given_up(page: Page, scripted: Scripted) -> None:
    """No byte in two and a half heartbeats after sync: the next transport, without loss."""
    scripted.heartbeat = 0.4
    scripted.next("/stream", Answer(mute=True))
    start(page)
    connected(page)
    until(page, "got.statuses.includes('reconnecting')")
    scripted.push(1)
    connected(page)
    until(page, "got.payloads.length === 1")
    first, second, *_ = scripted.requests("/stream")
    assert second.at - first.at > 0.9  # 2.5 times 0.4 s


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_a_connection_with_heartbeats_stays(page: Page, scripted: Scripted, transport: str) -> None:
    """An idle connection with its heartbeats is left alone."""
    scripted.heartbeat = 0.8
    start(page, transports=[transport])
    connected(page)
    page.wait_for_timeout(3000)
    assert len(scripted.requests(PATHS[transport])) == 1
    assert page.evaluate("got.statuses") == ["connecting", "connected"]


def test_something_else_that_answers_is_left_after_three_tries(page: Page, scripted: Scripted) -> None:
    """A page in the place of the stream (a portal, a wrong route): three tries, then the next transport."""
    scripted.retry = 10
    scripted.always["/stream"] = Answer(headers={"content-type": "text/html"})
    page.evaluate("Math.random = () => -0.49")  # the first delays are short
    start(page, lastId="1700000000000-0")
    connected(page)
    assert len(scripted.requests("/stream")) >= 3
    assert scripted.requests("/events")
    assert page.evaluate("got.payloads") == []


def test_a_server_that_is_down_changes_no_transport(page: Page, scripted: Scripted) -> None:
    """503 from a proxy, again and again: it is still the first transport that is tried."""
    start(page)
    connected(page)
    scripted.always["/stream"] = Answer(503)
    scripted.end_streams()
    deadline = time.monotonic() + 30
    while len(scripted.requests("/stream")) < 6:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    assert {seen.headers["accept"] for seen in scripted.requests("/stream")} == {"*/*"}
    assert scripted.requests("/events") == []


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_stream_is_parsed_wherever_it_is_cut(page: Page, newline: str) -> None:
    """Split at every byte, and fed byte by byte: the same frames."""
    text = newline.join(
        [
            *("retry: 70", ":", "data: one", "id: 5-0", "", "event: notify.x", "data:two", "data: lines", "data"),
            *("", "id: 6-0", "", "id: a\0b", "retry: x", "data:  3", "nonsense", "", "data: lost", "id: 7-0"),
        ]
    )
    result = page.evaluate(
        """async (text) => {
          const { parser } = await import('/notify/client.js');
          const run = (...parts) => {
            const out = [];
            const feed = parser((...frame) => out.push(frame), (ms) => out.push(ms));
            parts.forEach(feed);
            return JSON.stringify(out);
          };
          const all = new Set([run(...text)]);
          for (let i = 0; i <= text.length; i++) all.add(run(text.slice(0, i), text.slice(i)));
          return [...all];
        }""",
        text,
    )
    assert result == ['[70,["message","5-0","one"],["notify.x",null,"two\\nlines\\n"],["message",null," 3"]]']


@pytest.mark.parametrize("bad", ["data: {", "data: null", "id: 1700000000000-9"])
def test_a_frame_that_cannot_be_read_is_passed_over(
    context: BrowserContext, site: str, scripted: Scripted, bad: str
) -> None:
    """The stream goes on, and the position does not move by it."""
    scripted.push(1)
    scripted.next("/stream", Answer(body=(f"{bad}\n\n".encode(),)))
    page = opened(context, site)
    page.evaluate("window.reportError = () => {}")
    start(page, lastId="1700000000000-0")
    until(page, "got.payloads.length === 1")
    assert page.evaluate("got.client.lastId") == "1700000000000-1"
