// Web push in the page: subscribes, stays subscribed, and shows a message itself while the page is visible. How to use
// it: docs/howto/web-push.md; its types: push.d.ts. What arrives while no page is visible is service-worker.js's.
import { request } from "./request.js";

const FRESH = 3600000; // ms for which the server is not asked whether its key is still the same

const MESSAGES = {
  unsupported: "this browser, or a page without https, has no web push",
  install: "on iOS and iPadOS, web push needs the web app on the home screen",
  gesture: "call subscribe() in a click or a key press: browsers show the permission prompt at no other time",
  dismissed: "the user has closed the permission prompt without an answer",
  denied: "the user has blocked notifications of this site, which only the settings of the browser can change",
  worker: "the service worker was not installed",
  service: "the push service of the browser did not accept the subscription",
  unreachable: "the server did not answer",
};

/** What kept a subscription from being made: `code` is one of those in push.d.ts, `status` that of the server. */
export class PushError extends Error {
  name = "PushError";

  constructor(code, cause) {
    super(MESSAGES[code] ?? cause.message, { cause });
    this.code = code;
    this.status = cause?.status;
  }
}

const missing = () => {
  const hasPush = "serviceWorker" in navigator && "PushManager" in globalThis && "Notification" in globalThis;
  if (isSecureContext && hasPush) return "";
  return navigator.standalone === false ? "install" : "unsupported"; // only Safari on iOS has the property
};
const asText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");
const failed = (code) => (error) => {
  throw new PushError(code, error);
};
const isActive = (registration) =>
  new Promise((done, fail) => {
    const worker = registration.installing ?? registration.waiting;
    const look = () => {
      if (registration.active) done(registration);
      else if (worker.state === "redundant") fail(Error("its script failed"));
    };
    worker?.addEventListener("statechange", look);
    look();
  });

/** Web push over the DispatchApp at `url`; by default the one that this module was loaded from. */
export function webPush(url = new URL(".", import.meta.url), { auth, user = "", worker } = {}) {
  const base = new URL(String(url).replace(/\/?$/, "/"), document.baseURI).href;
  const script = new URL(typeof worker === "string" ? worker : `${base}service-worker.js`, document.baseURI).href;
  const place = `notify.push ${base}`;
  let memory, last;

  /** What the server has accepted last, from any page; without storage, from this one. */
  const recall = () => {
    try {
      return JSON.parse(localStorage.getItem(place));
    } catch {
      return memory;
    }
  };
  const remember = (given) => {
    memory = given;
    try {
      localStorage.setItem(place, JSON.stringify(given));
    } catch {
      // then the next page subscribes again
    }
  };
  const call = (method, path, body) =>
    request(base, method, path, { auth, body }).catch((error) => {
      throw new PushError(error.status ? "refused" : "unreachable", error);
    });
  /** Act when no other page does: two that subscribe at once would end with two subscriptions. */
  const inTurn = async (act) => {
    try {
      await (navigator.locks ? navigator.locks.request(place, act) : act());
    } finally {
      await update().catch(() => {});
    }
  };

  const installed = async () => {
    if (worker && typeof worker !== "string") return worker;
    const found = await navigator.serviceWorker.getRegistration(new URL(".", script));
    const workers = [found?.active, found?.waiting, found?.installing];
    return workers.some((each) => each?.scriptURL === script) ? found : undefined;
  };
  const subscription = async () => (await installed())?.pushManager.getSubscription();
  const keyOf = ({ endpoint, options }) => {
    const accepted = recall();
    if (options?.applicationServerKey) return asText(options.applicationServerKey);
    return endpoint === accepted?.endpoint && accepted.key;
  };
  const isOver = ({ expirationTime }) => expirationTime && expirationTime < Date.now() + 24 * FRESH;

  const renew = async () => {
    const { public_key: key } = await call("GET", "push/vapid-key");
    const registering = (await installed()) ?? navigator.serviceWorker.register(script);
    const { pushManager } = await Promise.resolve(registering).then(isActive).catch(failed("worker"));
    let made = await pushManager.getSubscription();
    const old = made?.endpoint ?? recall()?.endpoint;
    try {
      if (made && (keyOf(made) !== key || isOver(made))) made = void (await made.unsubscribe());
      made ??= await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    } catch (error) {
      throw new PushError("service", error);
    }
    const tz = Intl.DateTimeFormat().resolvedOptions().timeZone;
    await call("POST", "push/subscribe", { ...made.toJSON(), vapid: key, ...(tz && { tz }) });
    remember({ endpoint: made.endpoint, key, user, at: Date.now() });
    if (old && old !== made.endpoint) await call("POST", "push/unsubscribe", { endpoint: old }).catch(() => {});
  };
  const check = async () => {
    if (missing() || Notification.permission !== "granted") return;
    const made = await subscription();
    const accepted = recall();
    if (!made && !accepted) return;
    const isSame = made && accepted?.endpoint === made.endpoint && accepted.user === user;
    if (!isSame || Date.now() - accepted.at > FRESH || isOver(made)) await renew();
  };

  const state = async () => {
    if (missing()) return missing();
    if (Notification.permission === "denied") return "denied";
    const made = await subscription();
    const accepted = recall();
    return made && made.endpoint === accepted?.endpoint && accepted.user === user ? "subscribed" : "default";
  };
  async function update() {
    const now = await state();
    if (now !== last) document.dispatchEvent(new CustomEvent("notify-push-state", { detail: (last = now) }));
  }

  const subscribe = async () => {
    const lacks = missing();
    if (lacks) throw new PushError(lacks);
    if (Notification.permission === "default") {
      if (navigator.userActivation?.isActive === false) throw new PushError("gesture");
      await Notification.requestPermission(); // the first thing awaited: Safari wants it in the event itself
    }
    const answer = Notification.permission;
    if (answer !== "granted") throw new PushError(answer === "denied" ? "denied" : "dismissed");
    await inTurn(renew);
  };
  const unsubscribe = () =>
    inTurn(async () => {
      const made = missing() ? undefined : await subscription();
      const endpoint = made?.endpoint ?? recall()?.endpoint;
      remember(null); // first, so that no other page subscribes again
      await made?.unsubscribe();
      // The push service refuses messages from now on, from which the server learns it too.
      if (endpoint) await call("POST", "push/unsubscribe", { endpoint }).catch(() => {});
    });

  inTurn(check).catch((error) => console.warn(`notify: web push could not be renewed: ${error.message}`));
  navigator.permissions
    ?.query({ name: "notifications" })
    .then((permission) => (permission.onchange = () => inTurn(check).catch(() => {})))
    .catch(() => {});
  return { state, subscribe, unsubscribe };
}

// -- messages while the page is visible ----------------------------------------------------------------------------

/** Let the page show a message: a listener that cancels `notify-push`, else <notify-toasts>, else the worker. */
function offered(payload) {
  const event = new CustomEvent("notify-push", { detail: payload, bubbles: true, cancelable: true });
  if (!document.dispatchEvent(event)) return { isTaken: true };
  const { title, body: message, url: action_url, notification } = payload;
  const toasts = document.querySelector("notify-toasts");
  if (!toasts?.show || !(title || message)) return { payload };
  toasts.show({ type: "generic", user: "", payload: { title, message, action_url }, meta: { notification } });
  return { isTaken: true };
}

globalThis.navigator?.serviceWorker?.addEventListener("message", ({ data, ports: [port] }) => {
  if (!port || !data?.notifyPush) return;
  const isLate = Date.now() > data.until; // then the worker shows it, and a page that had been busy must not
  port.postMessage(isLate || document.hidden ? {} : offered(data.notifyPush));
});
globalThis.navigator?.serviceWorker?.startMessages();
