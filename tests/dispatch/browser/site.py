"""A site for browser tests: pages, a `NotifyApp` and a `DispatchApp` over one inbox, and a strict push service.

A browser without internet cannot reach its vendor's push service, so `PushManager.subscribe` is the one thing that is
replaced: `STUB` asks the site, which subscribes at the push service of `notify.testing.dispatch`. What that has
decrypted is delivered to the service worker by the developer tools, as the browser delivers a message.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio.to_thread
import httpx

from notify import Notifier
from notify.dispatch import DispatchApp, Dispatcher, FrequencyCap, Links, NotificationType, Recipient
from notify.dispatch.channels import InAppChannel, LogChannel, WebPushChannel, generate_vapid_key
from notify.inbox import Inbox
from notify.testing.dispatch import PushService, PushSubscription
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from tests.web.browser.scripted import read, serving

CAPS = [FrequencyCap(100, "day")]

TYPES = (
    NotificationType("note", channels=["in_app", "web_push"]),
    NotificationType("comment.created", channels=["in_app", "web_push", "email"]),
    NotificationType("sign_in", channels=["in_app", "email"], category="system", mandatory=["email"]),
    NotificationType("offers", channels=["web_push", "email"], category="marketing", opt_in="offers", caps=CAPS),
)

STUB = """(store) => {
  const of = (made) => made && {
    ...made,
    options: {
      userVisibleOnly: true,
      applicationServerKey: Uint8Array.from(atob(made.key.replace(/[-_]/g, (c) => ({'-': '+', _: '/'})[c])),
        (c) => c.charCodeAt()).buffer,
    },
    toJSON: () => ({endpoint: made.endpoint, expirationTime: made.expirationTime, keys: made.keys}),
    unsubscribe: async () => (store.set(null), true),
  };
  PushManager.prototype.getSubscription = async () => of(store.get());
  PushManager.prototype.subscribe = async ({applicationServerKey: key, userVisibleOnly}) => {
    const made = store.get();
    if (!userVisibleOnly || (made && made.key !== key)) throw new DOMException('refused', 'InvalidStateError');
    if (made) return of(made);
    const answer = await fetch('/stub/subscribe?' + new URLSearchParams({key}));
    if (!answer.ok) throw new DOMException('no push service', 'AbortError');
    store.set(await answer.json());
    return of(store.get());
  };
}"""
"""What a browser with a push service does. The subscription is kept in `store`, as the browser keeps it."""

IN_PAGE = f"""({STUB})({{
  get: () => JSON.parse(localStorage.getItem('stub')),
  set: (made) => localStorage.setItem('stub', JSON.stringify(made)),
}})"""

IN_WORKER = f"""() => {{
  self.stub ??= null;
  ({STUB})({{get: () => self.stub, set: (made) => (self.stub = made)}});
}}"""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Shop</title><button id="on">Notify me</button>
<notify-toasts duration="600000" duration-ephemeral="600000" types="note"></notify-toasts>
<script type="module" src="/notify/components.js"></script>
<script type="module">
  import { webPush } from "/notifications/push.js";
  window.states = [];
  window.offers = [];
  document.addEventListener("notify-push-state", ({ detail }) => states.push(detail));
  document.addEventListener("notify-push", ({ detail }) => offers.push(detail.title));
  window.start = (options) => (window.push = webPush(undefined, options));
  document.querySelector("#on").onclick = async () => {
    window.outcome = await push.subscribe().then(() => "ok", ({ code }) => code);
  };
  window.ready = true;
</script></html>"""

SETTINGS = """<!doctype html><html lang="en" dir="ltr"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Settings</title>
<style>body { margin: 20px; font: 16px system-ui; background: light-dark(#f4f5f7, #12141a); color-scheme: light dark; }
  main { max-width: 860px; margin: auto; }</style>
<main><notify-preferences label-channel-web_push="Push" label-channel-email="E-mail" label-channel-in_app="In the app">
</notify-preferences></main>
<script type="module" src="/notifications/preferences.js"></script></html>"""

OWN_WORKER = """self.notifyPush = SETTINGS;
importScripts("/notifications/service-worker.js");
addEventListener("message", () => skipWaiting());"""


class Sent(NamedTuple):
    """A request to the dispatch application: its path begins after the mount."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


def authenticate(request: Request) -> Identity | None:
    """The user in the cookie, or in a header."""
    user = request.cookies.get("user") or request.headers.get("x-user")
    return Identity(user) if user else None


class Site:
    """The applications.

    Attributes:
        pages: by path, with their content type.
        sent: the requests to the dispatch application, in their order.
        statuses: of its answers, by path.
        subscriptions: those that pages have made at the push service.
        failures: statuses with which the next requests are answered, by method and path, as `PATCH preferences`.
        gate: requests to preferences wait for it.
    """

    def __init__(self, service: PushService) -> None:
        self.service = service
        self.channels: list[WebPushChannel] = []
        self.reset()

    def reset(self) -> None:
        """Begin with empty stores, and a new key."""
        self.keys = [generate_vapid_key()]
        self.pages: dict[str, tuple[str, str]] = {
            "/": ("text/html", PAGE),
            "/other": ("text/html", PAGE),
            "/settings": ("text/html", SETTINGS),
            "/bare": ("text/html", "<!doctype html><title>Bare</title>"),
        }
        self.sent: list[Sent] = []
        self.statuses: defaultdict[str, list[int]] = defaultdict(list)
        self.subscriptions: list[PushSubscription] = []
        self.failures: defaultdict[str, list[int]] = defaultdict(list)
        self.gate = threading.Event()
        self.gate.set()
        self.can_subscribe = True
        self.service.refusals.clear()
        with ThreadPoolExecutor(1) as thread:  # in this one, the browser's driver has an event loop
            thread.submit(self.build).result()

    def build(self) -> None:
        """Make the applications."""
        self.store = MemoryDispatchStore()
        notifier = Notifier(MemoryStreamStore())
        self.inbox = Inbox(notifier)
        self.web = NotifyApp(notifier, authenticate, inbox=self.inbox)
        self.make()

    def make(self, *, has_links: bool = False) -> None:
        """Make the dispatcher, with the present keys, as after a restart with other settings."""
        push = WebPushChannel(self.keys, subject="mailto:ops@example.com", allow_private=True)
        self.channels.append(push)
        channels = {"in_app": InAppChannel(self.inbox), "web_push": push, "email": LogChannel()}
        links = Links(f"{self.url}/notifications", ["a secret of more than sixteen bytes"]) if has_links else None
        self.dispatcher = Dispatcher(
            self.inbox, self.store, TYPES, channels, recipients=self.recipients, tz="Europe/Berlin", links=links
        )
        self.dispatch = DispatchApp(
            self.dispatcher, authenticate, admin=lambda identity: identity.user == "root", allow_private=True
        )

    url = "http://127.0.0.1"

    async def recipients(self, ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(user) for user in ids]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        if path.startswith("/notify/"):
            await self.web(scope, receive, send)
        elif path.startswith("/notifications/"):
            await self.dispatched(scope, receive, send)
        elif path == "/tick":
            while (await self.dispatcher.tick()).claimed:
                pass
            await reply(send, "application/json", "{}")
        elif path == "/close":
            for each in self.channels:
                await each.aclose()
            await reply(send, "application/json", "{}")
        elif path == "/stub/subscribe":
            key = httpx.QueryParams(scope["query_string"])["key"]
            made = self.service.subscribe(vapid=key)
            self.subscriptions.append(made)
            meta = made.endpoint("").meta
            keys = {name: meta[name] for name in ("p256dh", "auth")}
            value = {"endpoint": made.url, "expirationTime": None, "keys": keys, "key": key}
            await reply(send, "application/json", json.dumps(value), 200 if self.can_subscribe else 503)
        elif path in self.pages:
            await reply(send, *self.pages[path])
        else:
            await reply(send, "text/plain", "", 404)

    async def dispatched(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Note a request to the dispatch application; fail, or let it answer."""
        path, method = scope["path"].removeprefix("/notifications/"), scope["method"]
        body = await read(receive)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        if not path.endswith(".js"):
            self.sent.append(Sent(method, path, json.loads(body) if body else None, headers))
        if path == "preferences":
            await anyio.to_thread.run_sync(self.gate.wait, 60)
        if failures := self.failures[f"{method} {path}"]:
            await reply(send, "application/json", '{"error": {"code": "no", "message": "no"}}', failures.pop(0))
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses[path].append(message["status"])
            await send(message)

        await self.dispatch(scope, again, noted)

    def paths(self, method: str = "POST") -> list[str]:
        """Return where requests with this method went."""
        return [each.path for each in self.sent if each.method == method]

    def received(self) -> str:
        """Return what the push service has decrypted last."""
        return self.subscriptions[-1].received[-1].content.decode()

    def submit(self, data: dict[str, Any], type: str = "note", user: str = "alice") -> None:
        """Submit a notification, and send everything that is due."""
        order = {"type": type, "user": user, "data": data}
        answer = httpx.post(f"{self.url}/notifications/send", json=order, headers={"x-user": "root"}, timeout=60)
        assert answer.status_code == 202, answer.text
        assert httpx.get(f"{self.url}/tick", timeout=60).status_code == 200

    def ask(self, path: str, user: str = "alice", **patch: Any) -> Any:
        """Read something as a user; or change it, with a patch."""
        method = "PATCH" if patch else "GET"
        body = patch or None
        answer = httpx.request(method, f"{self.url}{path}", json=body, headers={"x-user": user}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def reply(send: Any, kind: str, text: str, status: int = 200) -> None:
    """Answer a request."""
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


@contextmanager
def running() -> Iterator[Site]:
    """Serve a site, and its push service."""
    with PushService().running() as service:
        site = Site(service)
        with serving(site) as url:
            site.url = url
            yield site
            assert httpx.get(f"{url}/close", timeout=60).status_code == 200
