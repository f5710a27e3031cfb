"""push.js in a real browser: states, subscribing, and what renews a subscription."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from notify.dispatch.channels import generate_vapid_key
from tests.dispatch.browser.site import Site

AGE = """() => {
  const name = Object.keys(localStorage).find((each) => each.startsWith('notify.push '));
  localStorage.setItem(name, JSON.stringify({...JSON.parse(localStorage[name]), at: Date.now() - 3601000}));
}"""
"""More than an hour has passed."""

pytestmark = pytest.mark.slow


def opened(context: BrowserContext, site: Site, options: str = "{}", start: bool = True) -> Page:
    """A page of the site with `webPush`."""
    page = context.new_page()
    page.goto(site.url)
    page.wait_for_function("window.ready")
    if start:
        page.evaluate(f"start({options})")
        page.wait_for_function("states.length")
    return page


def clicked(page: Page) -> str:
    """Click the button that subscribes; return how that ended."""
    page.evaluate("window.outcome = ''")
    page.click("#on")
    page.wait_for_function("window.outcome")
    return str(page.evaluate("outcome"))


def posted(site: Site) -> list[str]:
    """Return what was posted about subscriptions."""
    return [each for each in site.paths() if each.startswith("push/")]


def devices(site: Site, user: str = "alice") -> int:
    return len(site.ask("/notifications/devices", user)["devices"])


def test_a_click_subscribes(context: BrowserContext, site: Site) -> None:
    """With the server's key and the zone of the browser; nothing is posted again when another page is loaded."""
    page = opened(context, site)
    assert page.evaluate("states") == ["default"]
    assert posted(site) == []
    assert clicked(page) == "ok"
    page.wait_for_function("states.at(-1) === 'subscribed'")
    (sent,) = [each for each in site.sent if each.path == "push/subscribe"]
    assert sent.body["vapid"] == site.ask("/notifications/push/vapid-key")["public_key"]
    assert sent.body["tz"] == page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    assert devices(site) == 1
    page = opened(context, site)
    assert page.evaluate("states") == ["subscribed"]
    assert posted(site) == ["push/subscribe"]
    assert clicked(page) == "ok"
    assert posted(site) == ["push/subscribe"] * 2
    assert devices(site) == 1


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("delete window.PushManager", "unsupported"),
        ("Object.defineProperty(window, 'isSecureContext', {value: false})", "unsupported"),
        ("delete window.PushManager; Object.defineProperty(navigator, 'standalone', {value: false})", "install"),
        ("Object.defineProperty(Notification, 'permission', {value: 'denied'})", "denied"),
    ],
)
def test_where_it_is_not_possible(context: BrowserContext, site: Site, script: str, state: str) -> None:
    """The state says why, subscribing fails with it as its code, and nothing is sent."""
    context.add_init_script(script)
    page = opened(context, site)
    assert page.evaluate("push.state()") == state
    assert page.evaluate("states") == [state]
    assert clicked(page) == state
    page.evaluate("push.unsubscribe()")
    assert site.sent == []


@pytest.mark.parametrize(
    ("answer", "is_active", "code"),
    [("default", 1, "dismissed"), ("denied", 1, "denied"), ("granted", 1, "ok"), ("granted", 0, "gesture")],
)
def test_the_user_is_asked_in_a_click(
    context: BrowserContext, site: Site, answer: str, is_active: int, code: str
) -> None:
    """Once, before anything is awaited; never at another time. The answer is the outcome."""
    page = opened(context, site, start=False)
    page.evaluate(
        """([answer, isActive]) => {
          window.asked = 0;
          let permission = 'default';
          Object.defineProperty(Notification, 'permission', {get: () => permission});
          Notification.requestPermission = async () => (window.asked++, permission = answer);
          Object.defineProperty(navigator.userActivation, 'isActive', {get: () => !!isActive});
          start();
        }""",
        [answer, is_active],
    )
    page.wait_for_function("states.length")
    assert page.evaluate("asked") == 0
    asked = page.evaluate("push.subscribe().catch(() => {}), asked")
    assert asked == is_active
    assert clicked(page) == code


def test_what_else_can_go_wrong(context: BrowserContext, site: Site) -> None:
    """Each part has its code; the next try works, and there is one device."""
    page = opened(context, site)
    site.can_subscribe = False
    assert clicked(page) == "service"
    site.can_subscribe = True
    site.failures["POST push/subscribe"] = [503]
    assert clicked(page) == "refused"
    assert page.evaluate("push.state()") == "default"
    assert page.evaluate("push.subscribe().catch((error) => error.status)") is None
    assert page.evaluate("push.state()") == "subscribed"
    context.route("**/push/vapid-key", lambda route: route.abort())
    assert clicked(page) == "unreachable"
    context.unroute("**/push/vapid-key")
    assert clicked(page) == "ok"
    assert devices(site) == 1


def test_a_worker_that_cannot_be_installed(context: BrowserContext, site: Site) -> None:
    """It is 404, or its script throws."""
    site.pages["/broken.js"] = ("text/javascript", "throw Error('broken')")
    for script in ("/nothing.js", "/broken.js"):
        page = opened(context, site, f"{{worker: '{script}'}}")
        assert clicked(page) == "worker"
        page.close()


def test_a_worker_of_the_applications_own(context: BrowserContext, site: Site) -> None:
    """By its URL, or by its registration."""
    site.pages["/sw.js"] = ("text/javascript", "importScripts('/notifications/service-worker.js')")
    page = opened(context, site, "{worker: '/sw.js'}")
    assert clicked(page) == "ok"
    page = opened(context, site, "{worker: navigator.serviceWorker.ready}")
    assert page.evaluate("push.state()") == "subscribed"
    assert page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 1


def renewed(context: BrowserContext, site: Site, options: str = "{}") -> Page:
    """Load another page, and wait until it has renewed the subscription."""
    before = len(posted(site))
    page = opened(context, site, options)
    page.wait_for_function("states.at(-1) === 'subscribed'")
    assert len(posted(site)) > before
    return page


def test_the_key_has_changed(context: BrowserContext, site: Site) -> None:
    """The browser subscribes with the new key without a question, and the old address is removed."""
    page = opened(context, site)
    assert clicked(page) == "ok"
    old = site.subscriptions[0]
    site.keys = [generate_vapid_key(), *site.keys]
    site.make()
    page.evaluate(AGE)
    page.close()
    renewed(context, site)
    assert posted(site)[1:] == ["push/subscribe", "push/unsubscribe"]
    assert site.sent[-1].body == {"endpoint": old.url}
    assert site.subscriptions[1].vapid == site.ask("/notifications/push/vapid-key")["public_key"] != old.vapid
    assert devices(site) == 1
    site.submit({"title": "with the new key"})
    assert "with the new key" in site.received()


def test_the_browser_has_dropped_the_subscription(context: BrowserContext, site: Site) -> None:
    """The next page that is loaded subscribes again; so it does if the subscription ends within a day."""
    page = opened(context, site)
    assert clicked(page) == "ok"
    page.evaluate("localStorage.removeItem('stub')")
    page.close()
    page = renewed(context, site)
    assert posted(site) == ["push/subscribe", "push/subscribe", "push/unsubscribe"]
    soon = "JSON.stringify({...JSON.parse(localStorage.stub), expirationTime: Date.now() + 3600000})"
    page.evaluate(f"localStorage.stub = {soon}")
    page.close()
    renewed(context, site)
    assert len(site.subscriptions) == 3
    assert devices(site) == 1


def test_another_user(context: BrowserContext, site: Site) -> None:
    """The browser is then that user's, without a question."""
    page = opened(context, site, "{user: 'alice'}")
    assert clicked(page) == "ok"
    page.close()
    context.add_cookies([{"name": "user", "value": "bob", "url": site.url}])
    renewed(context, site, "{user: 'bob'}")
    assert (devices(site), devices(site, "bob")) == (0, 1)
    assert len(site.subscriptions) == 1


def test_another_user_whom_the_server_refuses(context: BrowserContext, site: Site) -> None:
    """A browser that is still registered for the previous user is not subscribed for this one."""
    page = opened(context, site, "{user: 'alice'}")
    assert clicked(page) == "ok"
    page.close()
    site.failures["POST push/subscribe"] = [503]
    page = opened(context, site, "{user: 'bob'}")
    assert page.evaluate("states") == ["default"]


@pytest.mark.parametrize("path", ["vapid-key", "subscribe"])
def test_an_answer_that_is_a_page(context: BrowserContext, site: Site, path: str) -> None:
    """A login page, to which an expired session may lead, is an error: nothing is subscribed."""
    page = opened(context, site)
    login = "<!doctype html><title>Log in</title>"
    page.route(f"**/push/{path}", lambda route: route.fulfill(body=login, content_type="text/html"))
    assert clicked(page) == "refused"
    assert page.evaluate("push.state()") == "default"


def test_unsubscribe(context: BrowserContext, site: Site) -> None:
    """Here and on the server; no page subscribes again by itself, even if the server could not be reached."""
    page = opened(context, site)
    assert clicked(page) == "ok"
    page.evaluate("push.unsubscribe()")
    assert page.evaluate("states") == ["default", "subscribed", "default"]
    assert devices(site) == 0
    assert clicked(page) == "ok"
    site.failures["POST push/unsubscribe"] = [503]
    page.evaluate("push.unsubscribe()")
    page.close()
    count = len(posted(site))
    page = opened(context, site)
    assert page.evaluate("states") == ["default"]
    assert len(posted(site)) == count


def test_a_token_is_renewed(context: BrowserContext, site: Site) -> None:
    """A page that logs in by a header: the function is asked again when the server refuses what it has returned."""
    context.clear_cookies()
    page = opened(context, site, "{auth: async (renew) => (renew ? {'X-User': 'alice'} : {})}")
    assert clicked(page) == "ok"
    assert devices(site) == 1
    page = opened(context, site, "{auth: {}}")
    assert clicked(page) == "refused"
    assert page.evaluate("push.subscribe().catch(({status}) => status)") == 401


def test_without_storage(context: BrowserContext, site: Site) -> None:
    """The page knows what it did itself; the next one registers the browser again."""
    throws = "get: () => { throw new DOMException('blocked', 'SecurityError'); }"
    page = opened(context, site, start=False)
    page.evaluate(
        f"""() => {{
          const all = {{}};
          window.stubbed = all;
          PushManager.prototype.getSubscription = async () => all.made;
          const made = {{endpoint: 'https://push.example.com/x', keys: KEYS}};
          PushManager.prototype.subscribe = async () => (all.made = {{...made, toJSON: () => made}});
          Object.defineProperty(window, 'localStorage', {{ {throws} }});
          start();
        }}""".replace("KEYS", KEYS)
    )
    assert clicked(page) == "ok"
    assert page.evaluate("push.state()") == "subscribed"


KEYS = """{
  p256dh: 'BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4',
  auth: 'BTBZMqHH6r4Tts7J_aSIgg',
}"""


def test_two_tabs(context: BrowserContext, site: Site) -> None:
    """Two tabs that subscribe at once end with one device."""
    pages: list[Any] = [opened(context, site), opened(context, site)]
    for page in pages:
        page.evaluate("void (window.done = push.subscribe().then(() => 'ok', ({code}) => code))")
    assert "ok" in [page.evaluate("done") for page in pages]
    assert devices(site) == 1
