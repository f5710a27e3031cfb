"""A service worker, as the browser and the user act on it."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import BrowserContext, Page
from playwright.sync_api import Worker as PlaywrightWorker

from tests.dispatch.browser.site import IN_WORKER, Site
from tests.web.pages import PATIENCE

REGISTER = """async ([url, options]) => {
  const registration = await navigator.serviceWorker.register(url, options);
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  while (worker.state !== 'activated') await new Promise((done) => worker.addEventListener('statechange', done));
  return registration.scope;
}"""

COUNT = """() => {
  const { waitUntil } = ExtendableEvent.prototype;
  const show = ServiceWorkerRegistration.prototype.showNotification;
  // Chromium closes other notifications by itself, 25 seconds after it has shown them.
  ServiceWorkerRegistration.prototype.showNotification = function (title, options) {
    return show.call(this, title, { ...options, requireInteraction: true });
  };
  self.handled = 0;
  PushEvent.prototype.waitUntil = function (promise) {
    const done = () => self.handled++;
    waitUntil.call(this, promise.then(done, done));
  };
}"""

UNTIL = """async ([count, delivered, patience]) => {
  const end = Date.now() + patience;
  const pause = () => new Promise((done) => setTimeout(done, 20));
  // Chromium removes a notification that is asked for while it is about to be shown.
  while (self.handled !== delivered) {
    if (Date.now() > end) throw Error(`${self.handled} of ${delivered} messages have been handled`);
    await pause();
  }
  for (;;) {
    const shown = await registration.getNotifications();
    if (shown.length === count) return shown.map(({title, body, tag, icon, silent, data, actions}) =>
      ({title, body, tag, icon, silent, data, actions: actions.map(({action, title}) => [action, title])}));
    if (Date.now() > end) throw Error(`there are ${shown.length} notifications: ${shown.map(({title}) => title)}`);
    await pause();
  }
}"""

TRUSTED = """() => {
  self.opened = [];
  self.waits = [];
  clients.openWindow = async (url) => self.opened.push(url);
  ExtendableEvent.prototype.waitUntil = (promise) => self.waits.push(promise);
}"""
"""What only an event of the browser's own may do: stay alive for a promise, and open a window."""

ACT = """async ([kind, action]) => {
  const [notification] = await registration.getNotifications();
  self.dispatchEvent(new NotificationEvent(kind, { notification, action }));
  await Promise.all(self.waits.splice(0));
}"""

CHANGED = """async (old) => {
  const event = new ExtendableEvent('pushsubscriptionchange');
  self.dispatchEvent(Object.assign(event, { oldSubscription: old && { endpoint: old }, newSubscription: null }));
  await Promise.all(self.waits.splice(0));
}"""


class ServiceWorker:
    """The worker of a site, registered by a page of it.

    Args:
        page: of the site.
        url: of the worker's script.
        options: of the registration.
    """

    def __init__(self, page: Page, site: Site, url: str = "/notifications/service-worker.js", **options: Any) -> None:
        self.context: BrowserContext = page.context
        self._site = site
        self._registrations: dict[str, str] = {}
        self._delivered = 0
        self._control = self.context.new_page()  # about:blank, so no page of the site
        self._tools = self.context.new_cdp_session(self._control)
        self._tools.on("ServiceWorker.workerRegistrationUpdated", self._updated)
        self._tools.send("ServiceWorker.enable")
        self.scope = page.evaluate(REGISTER, [url, options])
        self.url = f"{site.url}{url}"
        self.worker.evaluate(COUNT)
        page.bring_to_front()

    def _updated(self, event: dict[str, Any]) -> None:
        for each in event["registrations"]:
            self._registrations[each["scopeURL"]] = each["registrationId"]

    @property
    def worker(self) -> PlaywrightWorker:
        """The worker itself."""
        while not (found := [each for each in self.context.service_workers if each.url == self.url]):
            self.context.wait_for_event("serviceworker", timeout=PATIENCE)
        return found[-1]

    def deliver(self, message: Any) -> None:
        """Deliver a message, as a push service does: text, or a value as JSON."""
        while self.scope not in self._registrations:
            self._control.wait_for_timeout(20)
        data = message if isinstance(message, str) else json.dumps(message)
        registration = self._registrations[self.scope]
        command = {"origin": self._site.url, "registrationId": registration, "data": data}
        self._tools.send("ServiceWorker.deliverPushMessage", command)
        self._delivered += 1

    def shown(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until all messages have been handled and this many notifications are shown; return them."""
        found: list[dict[str, Any]] = self.worker.evaluate(UNTIL, [count, self._delivered, PATIENCE])
        return found

    def clear(self) -> None:
        """Close all notifications."""
        self.worker.evaluate("async () => (await registration.getNotifications()).forEach((each) => each.close())")
        self.shown(0)

    def act(self, kind: str, action: str = "") -> list[str]:
        """Click the notification, one of its buttons, or close it; return what was opened.

        A notification that is being closed takes a newer one with the same tag with it: wait for `shown(0)`.
        """
        self.worker.evaluate(TRUSTED)
        self.worker.evaluate(ACT, [kind, action])
        opened: list[str] = self.worker.evaluate("() => self.opened")
        return opened

    def change_subscription(self, old: str | None) -> None:
        """Tell the worker that its subscription has ended, as the browser does."""
        self.worker.evaluate(TRUSTED)
        self.worker.evaluate(IN_WORKER)
        self.worker.evaluate(CHANGED, old)
