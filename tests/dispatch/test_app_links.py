"""Links in messages: unsubscribing with one click, opens and clicks; a link does what was signed, and nothing else."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any

import pytest

from notify import BackendUnavailableError, UsageError
from notify.dispatch import Content, Endpoint, Job, Links, Recipient, State
from notify.dispatch._links import read_link, sign_link
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from tests.dispatch.app import KEY, Site, refused, serving
from tests.dispatch.world import START

pytestmark = pytest.mark.anyio

BASE = "https://example.com/notify"
FORM = {"content-type": "application/x-www-form-urlencoded"}
ONE_CLICK = "List-Unsubscribe=One-Click"
OFFER = {"title": "10 % off", "body": "See https://shop.example/a?b=1&c=2 now", "url": "https://shop.example/a?b=1&c=2"}


async def sent(site: Site, user: str = "alice", data: dict[str, Any] | None = None) -> Job:
    """Send an offer by e-mail and return what the channel got."""
    await site.dispatcher.set_preferences(user, {"opt_in": {"offers": True}})
    await site.dispatcher.submit("offer", user, OFFER if data is None else data)
    await site.settle()
    return site.email.jobs[-1]


def path_of(url: str) -> str:
    """Return the path of a link within the application."""
    assert url.startswith(f"{BASE}/")
    return url.removeprefix(f"{BASE}/")


async def unsubscribe_path(site: Site) -> str:
    job = await sent(site)
    assert job.headers["List-Unsubscribe-Post"] == ONE_CLICK
    return path_of(job.headers["List-Unsubscribe"].strip("<>"))


async def test_a_mail_program_unsubscribes_with_one_post() -> None:
    """Without a login or cookie; the plan says who decided, and the consent for other channels stays."""
    async with serving() as site, site.client() as program:
        path = await unsubscribe_path(site)
        answer = await program.post(path, content=ONE_CLICK, headers=FORM)
        assert (answer.status_code, "Unsubscribed" in answer.text) == (200, True)
        (decision,) = (await site.dispatcher.plan("offer", "alice", OFFER)).decisions
        assert (decision.reason, decision.layer) == ("opted_out", "user")
        assert (await site.dispatcher.preferences("alice")).opt_in == {"offers": True}
        (*_, (_, by, source, _)) = await site.store.consents("alice")
        assert (by, source) == ("alice", "unsubscribe link")
        assert (await program.post(path, content=ONE_CLICK, headers=FORM)).status_code == 200


async def test_looking_at_the_page_changes_nothing() -> None:
    """GET shows a form that posts; what fetches all links of a message unsubscribes no user. HEAD neither."""
    async with serving() as site, site.client() as scanner:
        path = await unsubscribe_path(site)
        page = await scanner.get(path)
        assert page.status_code == 200
        assert '<form method="post">' in page.text
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert (page.headers["referrer-policy"], page.headers["cache-control"]) == ("no-referrer", "no-store")
        assert (await scanner.head(path)).status_code == 200
        assert (await site.dispatcher.preferences("alice")).categories == {}


async def test_the_form_of_multipart_unsubscribes_and_anything_else_does_not() -> None:
    """RFC 8058 allows both encodings; a body without the field is 400."""
    async with serving() as site, site.client() as program:
        path = await unsubscribe_path(site)
        for body in ("", "List-Unsubscribe=", "Other=One-Click"):
            refused(await program.post(path, content=body, headers=FORM), 400, "bad_request")
        refused(await program.post(path, content="x" * 70_000, headers=FORM), 413, "payload_too_large")
        assert (await site.dispatcher.preferences("alice")).categories == {}
        answer = await program.post(path, files={"List-Unsubscribe": (None, "One-Click")})
        assert answer.status_code == 200
        assert (await site.dispatcher.preferences("alice")).categories == {"marketing": {"email": False}}


async def test_unsubscribing_overrides_what_was_switched_on_more_exactly() -> None:
    """An entry for the type would be stronger than that of its category, so it goes; others stay."""
    async with serving() as site, site.client() as program:
        path = await unsubscribe_path(site)
        chosen = {"types": {"offer": {"email": True, "*": True}, "note": {"email": True}}}
        await site.dispatcher.set_preferences("alice", chosen)
        await program.post(path, content=ONE_CLICK, headers=FORM)
        found = await site.dispatcher.preferences("alice")
        assert found.types == {"offer": {"*": True}, "note": {"email": True}}
        (decision,) = (await site.dispatcher.plan("offer", "alice", OFFER)).decisions
        assert decision.reason == "opted_out"


async def test_a_link_is_older_than_the_channels() -> None:
    """A channel that has gone, or has another name now, is no reason to refuse: the choice is kept."""
    async with serving() as site, site.client() as program:
        path = path_of(site.links.unsubscribe("alice", "marketing", "newsletter"))
        assert (await program.post(path, content=ONE_CLICK, headers=FORM)).status_code == 200
        assert (await site.dispatcher.preferences("alice")).categories == {"marketing": {"newsletter": False}}


async def test_what_waits_is_looked_at_again() -> None:
    """A message that waits for the morning is not sent to a user who unsubscribes in the night."""
    async with serving() as site, site.client() as program:
        quiet = [{"start": "00:00", "end": "23:00"}]
        await site.dispatcher.set_preferences("alice", {"opt_in": {"offers": True}, "quiet_hours": quiet})
        ticket = await site.dispatcher.submit("offer", "alice", OFFER)
        assert ticket is not None
        path = path_of(site.links.unsubscribe("alice", "marketing", "email"))
        await program.post(path, content=ONE_CLICK, headers=FORM)
        await site.settle()
        record = await site.store.record(ticket.id, "alice")
        assert record is not None
        assert [each.state for each in record[2]] == [State.SKIPPED]


async def test_a_page_of_ones_own() -> None:
    """It is given the category, the channel and the reader's languages."""
    page = lambda view: f"{view.category} {view.channel} {view.is_done} {view.languages}"  # noqa: E731 - short
    async with serving(unsubscribe_page=page) as site, site.client(**{"accept-language": "de"}) as client:
        assert (await client.get(await unsubscribe_path(site))).text == "marketing email False de"


async def test_opens_and_clicks_are_noted_once() -> None:
    """The link leads to the URL of the message, the picture is one; a program that asks by HEAD counts nothing."""
    async with serving() as site, site.client() as reader:
        job = await sent(site)
        link = path_of(job.content.url)
        assert f"See {job.content.url} now" == job.content.body
        head = await reader.head(link)
        assert head.headers["location"] == OFFER["url"]
        picture = path_of(site.links.opened(job.id))
        assert await times(site, job) == (None, None)
        answer = await reader.get(picture)
        assert (answer.status_code, answer.headers["content-type"], answer.content[:3]) == (200, "image/gif", b"GIF")
        assert await times(site, job) == (START, None)
        site.clock.advance("1m")
        answer = await reader.get(link)
        assert (answer.status_code, answer.headers["location"]) == (302, OFFER["url"])
        opened_at, clicked_at = await times(site, job)
        assert (opened_at, clicked_at) == (START, site.clock.now())


async def times(site: Site, job: Job) -> tuple[Any, Any]:
    found = await site.store.delivery(job.id)
    assert found is not None
    return found.delivery.opened_at, found.delivery.clicked_at


async def test_a_link_leads_on_when_nothing_can_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a delivery that was removed nor a store that fails stands between a reader and the page."""

    async def fail(*_: object) -> None:
        raise BackendUnavailableError("away")

    async with serving() as site, site.client() as reader:
        link = path_of(site.links.clicked("0" * 32, "https://shop.example/"))
        assert (await reader.get(link)).status_code == 302
        monkeypatch.setattr(site.store, "track", fail)
        assert (await reader.get(link)).status_code == 302


async def test_a_store_that_notes_nothing() -> None:
    """A store of one's own may lack `DeliveryTracking`: then links lead on as well, and clients are told."""

    class Plain(MemoryDispatchStore):
        track = None  # type: ignore[assignment]

    clock = VirtualClock(START)
    async with serving(store=Plain(clock=clock)) as site, site.client("alice") as client:
        job = await sent(site)
        link = await client.get(path_of(job.content.url))
        assert (link.status_code, link.headers["location"]) == (302, OFFER["url"])
        refused(await client.post(f"deliveries/{job.id}/opened"), 404, "not_found")


def signed(key: str, act: str, *values: str) -> str:
    return f"{act}/{sign_link([key.encode()], act, *values)}"  # type: ignore[arg-type]


async def test_only_what_was_signed_is_done() -> None:
    """A link that was changed, signed with another key or for another act is 404, and leads nowhere."""
    async with serving() as site, site.client() as reader:
        good = path_of(site.links.clicked("0" * 32, "https://shop.example/"))
        payload, _, signature = good.removeprefix("clicked/").partition(".")
        other = (
            urlsafe_b64encode(json.dumps(["clicked", "0" * 32, "https://evil.example/"]).encode()).decode().rstrip("=")
        )
        wrong = [
            f"clicked/{other}.{signature}",
            f"clicked/{payload}.{signature[:-2]}AA",
            f"clicked/{payload}",
            f"clicked/{payload}.",
            f"opened/{payload}.{signature}",
            f"unsubscribe/{payload}.{signature}",
            signed("another secret of sixteen bytes", "clicked", "0" * 32, "https://evil.example/"),
            signed(KEY, "clicked", "0" * 32, "javascript:alert(1)"),
            signed(KEY, "clicked", "0" * 32, "//evil.example/"),
            signed(KEY, "clicked", "0" * 32, "https://shop.example/\r\nset-cookie: a=b"),
            signed(KEY, "clicked", "0" * 32),
            "clicked/" + "A" * 5000,
            "clicked/%00%0d%0a",
        ]
        for path in wrong:
            answer = await reader.get(path)
            refused(answer, 404, "not_found")
            assert "location" not in answer.headers
        refused(await reader.post("unsubscribe/" + "A" * 50, content=ONE_CLICK, headers=FORM), 404, "not_found")


async def test_keys_are_rotated() -> None:
    """The first one signs, all are accepted, and one that was removed is not."""
    old, new = Links(BASE, ["old" * 8]), Links(BASE, ["new" * 8, "old" * 8])
    token = old.unsubscribe("alice", "marketing", "email").rpartition("/")[2]
    assert new.read("unsubscribe", token) == ("alice", "marketing", "email")
    assert Links(BASE, ["new" * 8]).read("unsubscribe", token) is None
    renewed = new.unsubscribe("alice", "marketing", "email").rpartition("/")[2]
    assert old.read("unsubscribe", renewed) is None
    assert read_link([b"new" * 8], "unsubscribe", renewed) == ("alice", "marketing", "email")


async def test_only_marketing_can_be_unsubscribed_from() -> None:
    """Other messages have no such header, and what is not tracked stays as it is."""
    job = Job("1", "n", "t", "system", "alice", "email", None, Content("x", url="https://a.example/"), {}, "normal",
              None, START, 1)  # fmt: skip
    links = Links(BASE, [KEY])
    assert links.added_to(job) == replace(job, dismiss_url=links.dismissed("1"))
    job = replace(job, category="marketing", headers={"X": "y"})
    assert {*Links(BASE, [KEY]).added_to(job).headers} == {"X", "List-Unsubscribe", "List-Unsubscribe-Post"}
    assert Links(BASE, [KEY], channels=()).added_to(job).headers == job.headers


async def test_html_gets_tracked_links_and_a_picture() -> None:
    """The URL of the message in its HTML leads over the link, other URLs stay, and the picture is inside the body."""
    url = "https://a.example/?x=1&y=2"
    html = '<body><a href="https://a.example/?x=1&amp;y=2">go</a><a href="https://b.example/">b</a></body>'
    content = Content("x", f"{url}&z=3 and {url}", html=html, url=url)
    job = Job("1", "n", "t", "system", "alice", "email", None, content, {}, "normal", None, START, 1)
    links = Links(BASE, [KEY], tracked=["email"])
    tracked = links.added_to(job).content
    assert tracked.url == links.clicked("1", url)
    assert tracked.body == f"{url}&z=3 and {tracked.url}"
    assert f'<a href="{tracked.url}">go</a><a href="https://b.example/">b</a>' in tracked.html
    assert tracked.html.endswith(f'<img src="{links.opened("1")}" width="1" height="1" alt=""></body>')
    relative = links.added_to(replace(job, content=Content("x", "text", url="/posts/7")))
    assert relative.content == Content("x", "text", url="/posts/7")


async def test_options_of_links_are_checked() -> None:
    """A key that is short, or is one text and not a list, is refused and not shown, as is a base that is not a URL."""
    for keys in (["short"], "a single secret of many bytes", [], [b""], [7]):
        with pytest.raises(UsageError) as caught:
            Links(BASE, keys)  # type: ignore[arg-type]
        assert "secret of many" not in str(caught.value)
        assert "short'" not in str(caught.value)
    for base in ("", "example.com", "ftp://example.com", "https://example.com/?a=1", "https://example.com/\n", 7):
        with pytest.raises(UsageError):
            Links(base, [KEY])  # type: ignore[arg-type]
    assert KEY not in repr(Links(BASE, [KEY]))
    with pytest.raises(UsageError):
        Links(BASE, [KEY]).clicked("1", "javascript:alert(1)")


async def test_ones_own_deliveries_are_opened() -> None:
    """By a client that is logged in; a foreign delivery and one that does not exist are the same 404."""
    async with serving() as site, site.client("alice") as alice, site.client("bob") as bob:
        job = await sent(site)
        path = f"deliveries/{job.id}/opened"
        foreign = await bob.post(path)
        unknown = await alice.post(f"deliveries/{'0' * 32}/opened")
        assert refused(foreign, 404, "not_found") == refused(unknown, 404, "not_found")
        async with site.client() as nobody:
            refused(await nobody.post(path), 401, "unauthenticated")
        assert await times(site, job) == (None, None)
        answer = await alice.post(path)
        assert answer.json() == {"id": job.id, "opened_at": START.isoformat(), "clicked_at": None}
        answer = await alice.post(f"deliveries/{job.id}/clicked")
        assert answer.json()["clicked_at"] == START.isoformat()
        found = await site.store.delivery(job.id)
        assert found is not None
        assert found.delivery.state is State.ACCEPTED


@pytest.mark.parametrize("is_signed", [False, True])
async def test_a_delivery_dismisses_its_item(is_signed: bool) -> None:
    """What another channel has sent dismisses the item of the same notification, by its user or by the signed link."""
    async with serving() as site, site.client("alice") as alice, site.client() as worker:
        await site.dispatcher.submit("note", Recipient("alice", endpoints=[Endpoint("alice", "fcm", "t1")]), {})
        await site.dispatcher.submit("note", "alice", {"title": "another"})
        await site.settle()
        job = site.fcm.jobs[0]
        if is_signed:
            headers = {"cookie": "any=1", "sec-fetch-site": "cross-site"}
            answer = await worker.post(path_of(job.dismiss_url), headers=headers)
        else:
            answer = await alice.post(f"deliveries/{job.id}/dismissed")
        assert (answer.status_code, answer.content) == (204, b"")
        (left,) = (await site.inbox.list("alice")).items
        assert left.event.payload["title"] == "another"
        again = await alice.post(f"deliveries/{job.id}/dismissed")
        assert again.status_code == 204


async def test_dismissing_what_there_is_not() -> None:
    """No item: 204. A foreign delivery, an unknown one, and a token for another act: 404. Nothing is dismissed."""
    async with serving() as site, site.client("alice") as alice, site.client("bob") as bob, site.client() as worker:
        job = await sent(site)  # an e-mail, without an item
        assert (await alice.post(f"deliveries/{job.id}/dismissed")).status_code == 204
        assert (await worker.post(path_of(site.links.dismissed("0" * 32)))).status_code == 204
        refused(await bob.post(f"deliveries/{job.id}/dismissed"), 404, "not_found")
        refused(await alice.post(f"deliveries/{'0' * 32}/dismissed"), 404, "not_found")
        refused(await worker.post(f"deliveries/{job.id}/dismissed"), 401, "unauthenticated")
        token = site.links.opened(job.id).rpartition("/")[2]
        refused(await worker.post(f"dismissed/{token}"), 404, "not_found")
