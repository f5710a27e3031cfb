"""The service worker in a real browser: messages come as from a push service, and clicks as from the system."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.dispatch.browser.site import OWN_WORKER, PAGE, Site
from tests.dispatch.browser.worker import ServiceWorker

ID = "0123456789abcdef0123456789abcdef"
MESSAGE = {
    "title": "Bob answered",
    "body": "See the thread",
    "url": "/other",
    "icon": "/icon.png",
    "tag": "thread:7",
    "id": ID,
    "notification": "n1",
    "data": {"post": 7},
}
TOAST = "notify-toasts [part~=toast]:not([inert])"
FOCUS = """() => {
  WindowClient.prototype.focus = async function () {
    (self.focused ??= []).push(this.url);
    return this;
  };
}"""
"""A browser lets only the click of a user move the focus."""

PATIENT = {"url": "/notifications/", "wait": 60_000}
"""A visible page has all the time it needs on a busy machine."""

pytestmark = pytest.mark.slow


def opened(context: BrowserContext, site: Site, path: str = "/") -> Page:
    """A page of the site, which asks the worker for what it has."""
    page = context.new_page()
    page.goto(f"{site.url}{path}")
    if site.pages[path][1] == PAGE:
        page.wait_for_function("window.ready && !!document.querySelector('notify-toasts').show")
    return page


def installed(context: BrowserContext, site: Site, settings: dict[str, Any] | None = None) -> ServiceWorker:
    """The worker, and no page of the site; with settings, it is one of the application's own."""
    page = opened(context, site, "/bare")
    if settings is None:
        worker = ServiceWorker(page, site)
    else:
        site.pages["/sw.js"] = ("text/javascript", OWN_WORKER.replace("SETTINGS", json.dumps(settings)))
        worker = ServiceWorker(page, site, "/sw.js", scope="/")
    page.close()
    return worker


def test_a_message_is_shown(context: BrowserContext, site: Site) -> None:
    """Title, text, tag and picture; Open and Dismiss, unless the message has buttons; the same tag replaces it."""
    worker = installed(context, site)
    worker.deliver(MESSAGE)
    (shown,) = worker.shown()
    assert (shown["title"], shown["body"], shown["tag"]) == ("Bob answered", "See the thread", "thread:7")
    assert shown["icon"] == f"{site.url}/icon.png"
    assert shown["actions"] == [["open", "Open"], ["dismiss", "Dismiss"]]
    assert shown["data"]["data"] == {"post": 7}
    actions = [{"action": "reply", "title": "Reply", "url": "/reply"}]
    worker.deliver({**MESSAGE, "title": "Carol answered", "actions": actions, "tag": "", "silent": True})
    other = next(each for each in worker.shown(2) if each["title"] == "Carol answered")
    assert (other["actions"], other["tag"], other["silent"]) == ([["reply", "Reply"]], ID, True)
    worker.deliver({**MESSAGE, "title": "Dora answered", "actions": actions, "tag": ID})
    worker.deliver({**MESSAGE, "tag": "last"})
    assert {each["title"] for each in worker.shown(3)} == {"Bob answered", "Dora answered"}


HOSTILE: list[tuple[Any, str, str]] = [
    ("", "HOST", ""),
    ("{", "HOST", ""),
    ("plain text", "HOST", ""),
    ("null", "HOST", ""),
    ("[1, 2]", "HOST", ""),
    ('"text"', "HOST", ""),
    ({"title": "", "body": "only a body"}, "HOST", "only a body"),
    ({"title": {"a": 1}, "body": ["x"], "actions": {"length": 1}, "tag": {}, "icon": 7, "url": []}, "HOST", ""),
    ({"title": "<img src=x onerror=alert(1)>", "body": "<b>b</b>"}, "<img src=x onerror=alert(1)>", "<b>b</b>"),
    ({"title": 7, "actions": [None, 1, {"action": "a"}, {"title": "b"}]}, "7", ""),
    ({"title": "long", "body": "x" * 3000, "__proto__": {"body": "p"}}, "long", "x" * 3000),
    ({"title": "urls", "icon": "http://[", "image": "http://[", "url": "http://["}, "urls", ""),
]
"""Messages, and the title and text of what is shown; HOST is that of the site."""


def test_whatever_it_contains_one_is_shown(context: BrowserContext, site: Site) -> None:
    """What is malformed is left out, and what looks like markup is text."""
    worker = installed(context, site)
    for message, title, body in HOSTILE:
        worker.deliver(message)
        (shown,) = worker.shown()
        assert shown["title"] == title.replace("HOST", site.url.removeprefix("http://"))
        assert shown["body"] == body
        worker.clear()


def test_a_visible_page_shows_it(context: BrowserContext, site: Site) -> None:
    """As a toast, as text, with its link; there is no notification beside it."""
    worker = installed(context, site, PATIENT)
    page = opened(context, site)
    worker.deliver({**MESSAGE, "body": "<b>bold</b>"})
    toast = page.locator(TOAST)
    expect(toast).to_have_count(1)
    expect(toast.locator("[part=title]")).to_have_text("Bob answered")
    expect(toast.locator("[part=message]")).to_have_text("<b>bold</b>")
    assert toast.get_by_role("link").get_attribute("href") == f"{site.url}/other"
    page.close()
    worker.deliver({**MESSAGE, "title": "later"})
    (shown,) = worker.shown()
    assert shown["title"] == "later"


def test_a_page_that_does_not_answer_in_time(context: BrowserContext, site: Site) -> None:
    """One without push.js, and one that was busy: the worker shows the message, and the page does not show it later."""
    worker = installed(context, site)
    bare = opened(context, site, "/bare")
    worker.deliver(MESSAGE)
    worker.shown()
    bare.close()
    worker.clear()
    page = opened(context, site)
    page.evaluate(
        """() => setTimeout(async () => {
          window.busy = true;
          for (const end = performance.now() + 3000; performance.now() < end; );
          window.over = true;
        })"""
    )
    worker.deliver({**MESSAGE, "tag": "busy"})
    assert [each["tag"] for each in worker.shown()] == ["busy"]
    page.wait_for_function("window.over")
    page.evaluate("new Promise((done) => setTimeout(done))")
    assert page.evaluate("offers") == []
    expect(page.locator(TOAST)).to_have_count(0)


def test_a_listener_takes_or_changes_it(context: BrowserContext, site: Site) -> None:
    """`preventDefault`, and nothing is shown; without toasts in the page, the worker shows what the listener made."""
    worker = installed(context, site, PATIENT)
    page = opened(context, site)
    page.evaluate(
        """() => {
          document.querySelector('notify-toasts').remove();
          document.addEventListener('notify-push', (event) => {
            if (event.detail.title === 'mine') event.preventDefault();
            else event.detail.body = 'changed';
          });
        }"""
    )
    worker.deliver({**MESSAGE, "title": "mine"})
    page.wait_for_function("offers.includes('mine')")
    worker.deliver(MESSAGE)
    (shown,) = worker.shown()
    assert (shown["title"], shown["body"]) == ("Bob answered", "changed")


def test_an_item_and_a_push_are_one_toast(context: BrowserContext, site: Site) -> None:
    """Whichever comes first; the toast is then that of the item, which can be dismissed on the server."""
    worker = installed(context, site, PATIENT)
    page = opened(context, site)
    emit = "(detail) => document.dispatchEvent(new CustomEvent('notify', { detail, cancelable: true }))"
    for number, is_first in enumerate([True, False]):
        push = {**MESSAGE, "title": f"Push {number}", "notification": f"n{number}"}
        item = {
            "id": f"{number + 1}-0", "user": "alice", "type": "note", "payload": {"title": f"Item {number}"},
            "meta": {"notification": f"n{number}"},
        }  # fmt: skip
        if is_first:
            page.evaluate(emit, item)
        worker.deliver(push)
        page.wait_for_function(f"offers.includes('Push {number}')")
        if not is_first:
            page.evaluate(emit, item)
        page.evaluate(emit, item)
        expect(page.locator(f"{TOAST} [part=title]")).to_have_text([f"Item {each}" for each in range(number + 1)])


def test_a_click_opens_its_address(context: BrowserContext, site: Site) -> None:
    """One of this site, or of another that is allowed; the click is noted, and the notification goes."""
    worker = installed(context, site, {"url": "/notifications/", "origins": ["https://shop.example"]})
    for url in ("/other", "https://shop.example/x", "other"):
        worker.deliver({**MESSAGE, "url": url})
        worker.shown()
        assert worker.act("notificationclick") == [url if ":" in url else f"{site.url}/other"]
        worker.shown(0)
    for url in ("", "https://evil.example/", "//evil.example/x", "javascript:alert(1)", "data:text/html,x", "http://["):
        worker.deliver({**MESSAGE, "url": url})
        worker.shown()
        assert worker.act("notificationclick") == [f"{site.url}/"]
        worker.shown(0)
    assert site.paths() == [f"deliveries/{ID}/clicked"] * 9


def test_a_click_goes_to_the_tab_that_is_open(context: BrowserContext, site: Site) -> None:
    """The tab gets the focus, and no other is opened; a button has an address of its own."""
    worker = installed(context, site)
    site.pages["/other"] = site.pages["/bare"]
    tab = opened(context, site, "/other")
    worker.worker.evaluate(FOCUS)
    actions = [{"action": "reply", "title": "Reply", "url": "/reply"}, {"action": "more", "title": "More"}]
    worker.deliver({**MESSAGE, "actions": actions})
    worker.shown()
    assert worker.act("notificationclick") == []
    assert worker.worker.evaluate("() => self.focused") == [tab.url]
    worker.shown(0)
    worker.deliver({**MESSAGE, "actions": actions})
    worker.shown()
    assert worker.act("notificationclick", "reply") == [f"{site.url}/reply"]
    worker.shown(0)
    worker.deliver({**MESSAGE, "actions": actions})
    worker.shown()
    assert worker.act("notificationclick", "more") == []


@pytest.mark.parametrize("has_links", [False, True])
def test_dismiss_reaches_the_inbox(context: BrowserContext, site: Site, has_links: bool) -> None:
    """With the session's cookie, or without it by the signed link: the item is dismissed on every device."""
    worker = installed(context, site)
    subscribed(context, site)
    site.make(has_links=has_links)
    site.submit({"title": "Bob answered"})
    if has_links:
        context.clear_cookies()
    worker.deliver(site.received())
    worker.shown()
    assert worker.act("notificationclick", "dismiss") == []
    worker.shown(0)
    assert site.ask("/notify/inbox?state=active")["items"] == []
    assert [each["payload"]["title"] for each in site.ask("/notify/inbox?state=dismissed")["items"]] == ["Bob answered"]
    (path,) = [each for each in site.paths() if "dismissed" in each]
    assert path.startswith("dismissed/" if has_links else "deliveries/")


def test_closing_it(context: BrowserContext, site: Site) -> None:
    """Leaves the item alone, unless the application wants it otherwise; a click is not taken for it."""
    own = {"url": "/notifications/", "close": "dismiss"}
    for settings, dismissed in ((None, []), (own, [f"deliveries/{ID}/dismissed"])):
        worker = installed(context, site, settings)
        worker.deliver(MESSAGE)
        worker.shown()
        worker.act("notificationclose")
        assert [each for each in site.paths() if "dismissed" in each] == dismissed
        worker.act("notificationclick")
        assert [each for each in site.paths() if "dismissed" in each] == dismissed


def test_a_worker_of_the_applications_own(context: BrowserContext, site: Site) -> None:
    """It imports ours, for the whole site; its texts are used, and its other notifications are left alone."""
    settings = {"url": "/notifications", "open": "Öffnen", "dismiss": "Verwerfen", "icon": "/shop.png", "title": "Shop"}
    worker = installed(context, site, settings)
    assert worker.scope == f"{site.url}/"
    worker.deliver("{}")
    (shown,) = worker.shown()
    assert (shown["title"], shown["icon"]) == ("Shop", f"{site.url}/shop.png")
    assert shown["actions"] == [["open", "Öffnen"], ["dismiss", "Verwerfen"]]
    assert worker.act("notificationclick") == [f"{site.url}/"]
    assert not [each for each in site.paths() if each.startswith("deliveries")]
    worker.shown(0)
    worker.worker.evaluate("() => registration.showNotification('own', { data: { mine: 1 } })")
    worker.shown()
    assert worker.act("notificationclick") == []
    worker.shown()


@pytest.mark.parametrize("has_old", [True, False])
def test_the_subscription_has_ended(context: BrowserContext, site: Site, has_old: bool) -> None:
    """The worker makes another one with the present key, and registers it; the old one is removed."""
    worker = installed(context, site)
    old = subscribed(context, site)
    worker.change_subscription(old if has_old else None)
    posted = [each for each in site.sent if each.path.startswith("push/") and each.method == "POST"]
    assert [each.path for each in posted] == ["push/subscribe"] * 2 + ["push/unsubscribe"] * has_old
    assert posted[1].body["endpoint"] != old
    assert posted[1].body["vapid"] == site.ask("/notifications/push/vapid-key")["public_key"]
    if has_old:
        assert posted[2].body == {"endpoint": old}
        assert len(site.ask("/notifications/devices")["devices"]) == 1


def test_from_the_dispatcher_to_the_notification(context: BrowserContext, site: Site) -> None:
    """A page subscribes; what the strict push service has decrypted reaches the worker, and the user."""
    worker = installed(context, site)
    subscribed(context, site)
    site.submit({"title": "Bob answered", "body": "See the thread", "url": "/other", "tag": "thread:7"})
    assert site.service.refusals == []
    worker.deliver(site.received())
    (shown,) = worker.shown()
    assert (shown["title"], shown["body"], shown["tag"]) == ("Bob answered", "See the thread", "thread:7")
    assert worker.act("notificationclick") == [f"{site.url}/other"]
    (clicked,) = [each for each in site.paths() if each.endswith("/clicked")]
    assert site.statuses[clicked] == [200]


def subscribed(context: BrowserContext, site: Site) -> str:
    """Subscribe in a page, and close it; return the address of the subscription."""
    page = opened(context, site)
    page.evaluate("start()")
    page.click("#on")
    page.wait_for_function("window.outcome")
    assert page.evaluate("outcome") == "ok"
    endpoint: str = page.evaluate("JSON.parse(localStorage.getItem('stub')).endpoint")
    page.close()
    return endpoint
