// The service worker of web push. Register it as it is (push.js does), or use it in a worker of your own:
//
//   self.notifyPush = { url: "/notifications/", open: "Öffnen", dismiss: "Verwerfen", icon: "/icon.png" };
//   importScripts("/notifications/service-worker.js");
//
// It shows a notification for each message that no visible page shows, whatever the message contains, because browsers
// end subscriptions that stay silent. All members of `notifyPush`: docs/howto/web-push.md.
(() => {
  "use strict";
  const settings = {
    title: location.host, // of a message without one
    open: "Open",
    dismiss: "Dismiss",
    origins: [], // other sites that a click may open
    wait: 300, // ms within which a visible page has to take a message
    close: "keep", // "dismiss": closing a notification dismisses its item in the inbox
    ...self.notifyPush,
  };
  const base = new URL(String(settings.url ?? ".").replace(/[^/]$/, "$&/"), location.href);
  // WebKit ends a subscription after a few messages without a notification, also where a page has shown them.
  const isStrict = /AppleWebKit/.test(navigator.userAgent) && !/Chrom/.test(navigator.userAgent);

  const text = (value) => (typeof value === "string" ? value : typeof value === "number" ? String(value) : "");
  const safeUrl = (value) => {
    try {
      const { href, origin } = new URL(value, location.origin);
      return text(value) && [location.origin, ...settings.origins].includes(origin) ? href : "";
    } catch {
      return ""; // not a URL
    }
  };

  // -- messages

  const optionsOf = (payload) => {
    const given = Array.isArray(payload.actions) ? payload.actions : [];
    const named = given.filter((each) => text(each?.action) && text(each.title));
    const usual = ["open", "dismiss"].map((action) => ({ action, title: settings[action] }));
    return {
      body: text(payload.body),
      tag: text(payload.tag) || text(payload.id),
      icon: text(payload.icon) || settings.icon,
      image: text(payload.image) || undefined,
      badge: settings.badge,
      silent: payload.silent === true,
      actions: named.length ? named.map(({ action, title }) => ({ action: text(action), title: text(title) })) : usual,
      data: {
        notify: 1, // the other notifications of a worker are not touched
        id: text(payload.id),
        url: safeUrl(payload.url),
        urls: named.map(({ action, url }) => [text(action), safeUrl(url)]),
        dismiss: safeUrl(payload.dismiss),
        data: payload.data,
      },
    };
  };
  const show = async (payload) => {
    const title = text(payload.title) || settings.title;
    try {
      await registration.showNotification(title, optionsOf(payload));
    } catch {
      await registration.showNotification(settings.title, { data: { notify: 1 } });
    }
  };

  const ask = (tab, payload) =>
    new Promise((done) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }) => done(data);
      setTimeout(done, 1.5 * settings.wait); // an answer that was given in time has arrived by then
      tab.postMessage({ notifyPush: payload, until: Date.now() + settings.wait }, [port2]);
    });
  /** Return what is to be shown, or null if a page has taken it. The first visible page that answers decides. */
  const offered = async (payload) => {
    if (isStrict) return payload;
    const tabs = await clients.matchAll({ type: "window", includeUncontrolled: true });
    const visible = tabs.filter((tab) => tab.visibilityState === "visible" && tab.frameType !== "nested");
    for (const tab of visible.sort((a, b) => b.focused - a.focused)) {
      const answer = await ask(tab, payload);
      if (answer) return answer.isTaken ? null : { ...(answer.payload ?? payload) };
    }
    return payload;
  };
  const received = async (message) => {
    let payload = {};
    try {
      payload = { ...message.json() };
      payload = await offered(payload);
    } catch {
      // no message, or not JSON: it is shown without a text
    }
    if (payload) await show(payload);
  };

  // -- clicks

  const post = (url, body) => {
    const init = { method: "POST", body: JSON.stringify(body ?? {}), headers: { "Content-Type": "application/json" } };
    return fetch(url, { ...init, credentials: "include", keepalive: true });
  };
  /** Tell the server, which may not know this browser any more: then it says so, and there is nothing to do. */
  const tell = ({ id = "", dismiss }, act) => {
    if (!/^[\w-]+$/.test(id)) return undefined;
    const url = act === "dismissed" && dismiss ? dismiss : new URL(`deliveries/${id}/${act}`, base);
    return post(url).catch(() => {});
  };
  const open = async (url) => {
    const tabs = await clients.matchAll({ type: "window", includeUncontrolled: true });
    const tab = tabs.find((each) => each.url === url);
    return (await tab?.focus().catch(() => null)) ?? clients.openWindow(url);
  };
  const clicked = ({ action, notification: { data } }) => {
    if (action === "dismiss") return tell(data, "dismissed");
    const [, own] = data.urls?.find(([name]) => name === action) ?? [];
    return Promise.all([open(own || data.url || new URL("/", location.origin).href), tell(data, "clicked")]);
  };

  // -- subscriptions that the browser or the push service has ended

  const keyOf = ({ options }) =>
    btoa(String.fromCharCode(...new Uint8Array(options.applicationServerKey)))
      .replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");
  const renewed = async ({ oldSubscription: old, newSubscription }) => {
    const { public_key: key } = await (await fetch(new URL("push/vapid-key", base), { cache: "no-store" })).json();
    const { pushManager } = registration;
    let made = newSubscription ?? (await pushManager.getSubscription());
    if (made && keyOf(made) !== key) made = void (await made.unsubscribe());
    made ??= await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    await post(new URL("push/subscribe", base), { ...made.toJSON(), vapid: key });
    if (old && old.endpoint !== made.endpoint) await post(new URL("push/unsubscribe", base), { endpoint: old.endpoint });
  };

  const closing = new Set(); // notifications that a click has closed
  addEventListener("push", (event) => event.waitUntil(received(event.data)));
  addEventListener("notificationclick", (event) => {
    if (!event.notification.data?.notify) return;
    closing.add(event.notification.data.id);
    event.notification.close();
    event.waitUntil(clicked(event));
  });
  addEventListener("notificationclose", (event) => {
    const data = event.notification.data;
    if (!data?.notify || closing.delete(data.id) || settings.close !== "dismiss") return;
    event.waitUntil(tell(data, "dismissed"));
  });
  addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renewed(event)));
  if (!self.notifyPush) addEventListener("install", () => skipWaiting()); // a worker of your own decides for itself
})();
