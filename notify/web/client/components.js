// <notify-toasts> and <notify-status>; loads bell.js for a <notify-bell>. How to use them: docs/howto/components.md.
// What an event contains is only ever set as text. Styles are adopted style sheets, which a Content-Security-Policy
// without 'unsafe-inline' permits.

const TYPES = {
  // the shapes of the icons, on a grid of 20
  info: "M10 9v5M10 6v.01",
  success: "M6 10.5l2.8 2.8L14 7.5",
  warning: "M10 5.5v5M10 14v.01",
  error: "M7 7l6 6M13 7l-6 6",
};
const WIDE = "(min-width: 768px)";
const TICK = 100; // ms between looks at the time left
const EXIT = 400; // ms after which a toast goes if its exit animation did not end
const TABS = "notify.toasts";
const REMEMBERED = 500; // ids that are not shown twice

const Base = globalThis.HTMLElement ?? class {}; // so that a server may import this module

const make = (tag, part, properties) => Object.assign(document.createElement(tag), { part }, properties);
const text = (value) => (value == null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
const linked = ({ action_url, url }) => safeUrl(action_url ?? url);
const style = (root, css) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  root.adoptedStyleSheets = [sheet];
};

/** Return the URL of an action as an absolute one, or "" unless it is http(s) or a path of this origin. */
export function safeUrl(value) {
  if (typeof value !== "string" || !value) return "";
  let url;
  try {
    url = new URL(value, document.baseURI);
  } catch {
    return "";
  }
  const isWeb = url.protocol === "http:" || url.protocol === "https:";
  return isWeb && (url.origin === location.origin || /^https?:\/\//i.test(value)) ? url.href : "";
}

// -- toasts -------------------------------------------------------------------------------------------------------

const TOASTS = `
:host {
  color-scheme: light dark;
  --_bg: var(--notify-background, light-dark(#fff, #1d2027));
  --_text: var(--notify-text, light-dark(#1a1d24, #eceef2));
  --_muted: var(--notify-muted, light-dark(#596070, #a3aab8));
  --_border: var(--notify-border, light-dark(#0000001a, #ffffff24));
  --_info: var(--notify-info, light-dark(#2b5fd9, #7aa5ff));
  --_success: var(--notify-success, light-dark(#17794a, #55cd8f));
  --_warning: var(--notify-warning, light-dark(#96600a, #f0b849));
  --_error: var(--notify-error, light-dark(#c22f3d, #ff8087));
  --_gap: var(--notify-gap, 12px);
  --_from: 24px;
  position: fixed; z-index: var(--notify-z-index, 2147483000);
  inset-block-end: 0; inset-inline-end: 0; padding: max(20px, env(safe-area-inset-bottom)) 20px;
  box-sizing: border-box; width: min(100vw, calc(var(--notify-width, 372px) + 40px));
  pointer-events: none; font: 14px/1.45 var(--notify-font, system-ui, sans-serif); color: var(--_text);
}
:host([position^=top]) { inset-block: 0 auto; }
:host([position$=start]) { inset-inline: 0 auto; --_from: -24px; }
:host(:dir(rtl)) { --_from: -24px; }
:host([position$=start]:dir(rtl)) { --_from: 24px; }
[part=list] { display: flex; flex-direction: column; gap: var(--_gap); max-height: calc(100dvh - 40px); }
[part~=toast] {
  --_tone: var(--_info);
  box-sizing: border-box; pointer-events: auto; position: relative; overflow: hidden auto; min-height: 50px;
  display: grid; grid-template-columns: 20px minmax(0, 1fr) auto; column-gap: 12px; align-items: start;
  padding: 14px; padding-inline-end: 10px;
  background: var(--_bg); border: 1px solid var(--_border); border-radius: var(--notify-radius, 12px);
  box-shadow: var(--notify-shadow, 0 1px 2px #0000000f, 0 10px 30px -8px #00000038);
  animation: in .26s cubic-bezier(.2, .9, .3, 1) both;
}
[part~=success] { --_tone: var(--_success); }
[part~=warning] { --_tone: var(--_warning); }
[part~=error] { --_tone: var(--_error); }
[part~=leaving] { animation: out .18s ease-in both; pointer-events: none; }
[part=icon] { width: 20px; height: 20px; color: var(--_tone); }
[part=body] { min-width: 0; overflow-wrap: anywhere; }
[part=title], [part=action] { font-weight: 600; max-height: 4.35em; overflow: auto; }
[part=message] { color: var(--_muted); white-space: pre-line; max-height: 8.7em; overflow: auto; }
[part=title]:empty, [part=message]:empty { display: none; }
[part=action] { display: inline-block; vertical-align: top; margin-top: 6px; color: var(--_tone); text-underline-offset: 3px; }
[part=progress] { display: block; appearance: none; width: 100%; height: 4px; margin-top: 9px; border: 0;
  border-radius: 2px; overflow: hidden; background: var(--_border); forced-color-adjust: none; }
[part=progress]::-webkit-progress-bar { background: none; }
[part=progress]::-webkit-progress-value { background: var(--_tone); border-radius: 2px; transition: width .2s; }
[part=progress]::-moz-progress-bar { background: var(--_tone); border-radius: 2px; }
[part=close] {
  all: unset; box-sizing: border-box; width: 24px; height: 24px; margin: -2px 0; border-radius: 6px; cursor: pointer;
  color: var(--_muted); text-align: center; font: 18px/22px system-ui, sans-serif;
}
[part=close]:hover { color: var(--_text); background: var(--_border); }
:is(a, button):focus-visible { outline: 2px solid var(--_info); outline-offset: 2px; border-radius: 6px; }
[hidden] { display: none !important; }
@keyframes in { from { opacity: 0; transform: translateX(var(--_from)); } }
@keyframes out { to { opacity: 0; transform: translateX(var(--_from)); } }
@media (max-width: 599.98px) {
  :host { inset-inline: 0 !important; width: auto; padding: 8px max(8px, env(safe-area-inset-right)); --_gap: 8px; }
}
@media (prefers-reduced-motion: reduce) { [part~=toast], progress::-webkit-progress-value { animation: none; transition: none; } }
@media (forced-colors: active) { [part~=toast] { border-color: CanvasText; } }
`;

/** Shows events of type `generic`, and of further `types`. */
export class NotifyToasts extends Base {
  #shown = []; // in the order of the screen
  #queue = []; // events, oldest first
  #seen = new Set();
  #list;
  #timer = 0;
  #last = 0;
  #returnTo = null;
  #stop = null; // aborts the listeners
  #tabs = null;
  #inboxes = new Map(); // by client
  #inboxOf = new WeakMap(); // by event
  #asked = new Set(); // events whose dismissal was sent

  connectedCallback() {
    if (!this.#list) {
      const root = this.attachShadow({ mode: "open" });
      style(root, TOASTS);
      this.#list = make("div", "list", { role: "region" });
      root.append(this.#list);
    }
    this.#list.setAttribute("aria-label", this.getAttribute("label") ?? "Notifications");
    this.#stop = new AbortController();
    const listen = (target, name, handle) => target.addEventListener(name, handle, { signal: this.#stop.signal });
    listen(document, "notify", (event) => this.#heard(event));
    listen(document, "keydown", (event) => this.#pressed(event));
    listen(this.#list, "focusin", (event) => {
      if (event.relatedTarget && !this.#list.contains(event.relatedTarget)) this.#returnTo = event.relatedTarget;
    });
    listen(this.#list, "focusout", (event) => {
      if (event.relatedTarget && !this.#list.contains(event.relatedTarget)) this.#returnTo = null;
    });
    listen(matchMedia(WIDE), "change", () => this.#fit());
    listen(document, "visibilitychange", () => this.#answer());
    this.#answer();
    this.#fit();
  }

  disconnectedCallback() {
    this.#stop.abort();
    this.#tabs?.close();
    clearInterval(this.#timer);
    this.#timer = 0;
    for (const inbox of this.#inboxes.values()) inbox.close();
    this.#inboxes.clear();
  }

  /** Show one event; returns whether it is new. An event of a group takes the place of the one before it. */
  show(event) {
    const payload = event?.payload;
    if (!text(payload?.title) && !text(payload?.message)) {
      warn(`an event of type "${event?.type}" is not shown: its payload has neither a title nor a message`);
      return false;
    }
    const key = event.id ? `${event.user}\n${event.id}` : "";
    const number = text(event.meta?.notification); // an item, and a web push of it: one toast
    const isKnown = this.#seen.has(number);
    if (this.#seen.has(key) || (isKnown && !key)) return false;
    for (const each of [key, number]) {
      if (each) this.#seen.add(each);
      if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.values().next().value);
    }
    const isSame = (other) =>
      (event.group && other.group === event.group && other.user === event.user) ||
      (number && other.meta?.notification === number);
    const shown = this.#shown.find((toast) => !toast.isLeaving && isSame(toast.event));
    const queued = this.#queue.findIndex(isSame);
    if (isKnown && !shown && queued < 0) return false;
    this.#forget(isSame);
    if (shown) this.#fill(shown, event);
    else if (queued >= 0) this.#queue[queued] = event;
    else this.#queue.push(event);
    this.#fit();
    return true;
  }

  /** Remove the toasts of these ids or of this group, also from the queue; without an argument, all. */
  dismiss({ ids = null, group = null, user = null } = {}) {
    const goes = (event) =>
      ids?.includes(`${event.id}@${event.user}`) ||
      ((user == null || event.user === user) &&
        (ids ? ids.includes(event.id) : group != null ? event.group === group : true));
    this.#drop(goes);
  }

  #forget(goes) {
    for (const event of this.#asked) if (goes(event)) this.#asked.delete(event);
  }

  #drop(goes) {
    this.#forget(goes);
    this.#queue = this.#queue.filter((event) => !goes(event));
    for (const toast of [...this.#shown]) if (goes(toast.event)) this.#leave(toast, "dismissed");
  }

  #heard(domEvent) {
    const event = domEvent.detail;
    if (event?.type === "notify.dismissed") return this.#dismissed(event, domEvent.client).catch(reportError);
    const types = ["generic", ...(this.getAttribute("types") ?? "").split(/\s+/)];
    if (!event?.type || !types.includes(event.type) || event.meta?.alert === "off") return;
    if (event.id && event.item && this.getAttribute("dismiss") === "server") this.#ask(event, domEvent.client);
    // Later listeners may cancel it, too.
    queueMicrotask(() => {
      if (!domEvent.defaultPrevented && this.isConnected && this.show(event) && document.hidden) this.#notify(event);
    });
  }

  /** Remove what was dismissed elsewhere. */
  async #dismissed({ payload, user }, client) {
    const { ids, group, up_to: end } = payload ?? {};
    await 0; // events before it are shown by then
    if (ids) this.dismiss({ ids, user });
    else if (group) this.dismiss({ group }); // of whatever log
    if (!end) return;
    const { covers } = await import("./inbox.js");
    this.#drop((event) => {
      const isCovered = event.item && covers(end, event, user);
      if (isCovered === undefined && event.item && /\.~/.test(end)) this.#ask(event, client); // a long name is a hash
      return isCovered;
    });
  }

  /** Have the inbox of its client decide whether an event that it lists stays. */
  #ask(event, client) {
    if (!client?.inbox) return;
    if (!this.#inboxes.has(client)) {
      const inbox = client.inbox();
      this.#inboxes.set(client, inbox);
      inbox.subscribe(() => this.#compare(inbox));
    }
    this.#inboxOf.set(event, this.#inboxes.get(client));
  }

  /** Remove toasts whose items are not active any more: dismissed elsewhere, or expired. */
  #compare(inbox) {
    const { items, hasMore, loading, error } = inbox;
    if (loading || error) return;
    const active = new Set(items.map(({ id, user }) => `${id.split("@")[0]}@${user}`));
    const isOver = (event) =>
      this.#inboxOf.get(event) === inbox &&
      !this.#asked.has(event) &&
      !active.has(`${event.id}@${event.user}`) &&
      (!hasMore || event.timestamp > items.at(-1)?.timestamp);
    this.#drop(isOver);
  }

  // -- what is visible

  get #limit() {
    const [wide, narrow] = (this.getAttribute("limit") ?? "").trim().split(/\s+/).map(Number);
    return matchMedia(WIDE).matches ? wide || 3 : narrow || wide || 2;
  }

  /** Fill the free places from the queue; where the window became narrow, the newest go back to its front. */
  #fit() {
    if (!this.isConnected) return;
    const limit = this.#limit;
    while (this.#shown.length > limit) {
      const toast = this.#shown.pop();
      this.#moveFocus(toast);
      toast.element.remove();
      if (!toast.isLeaving) this.#queue.unshift(toast.event);
    }
    while (this.#queue.length && this.#shown.length < limit) this.#enter(this.#queue.shift());
    if (this.#shown.length && !this.#timer) {
      this.#last = performance.now();
      this.#timer = setInterval(() => this.#tick(), TICK);
    }
  }

  #enter(event) {
    const toast = { element: make("div", "toast"), isLeaving: false };
    this.#shown.push(toast);
    toast.element.setAttribute("aria-atomic", "true");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const set = (node, attributes) => Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    const circle = document.createElementNS(svg.namespaceURI, "circle");
    toast.path = document.createElementNS(svg.namespaceURI, "path");
    set(svg, { part: "icon", viewBox: "0 0 20 20", fill: "none", stroke: "currentColor", "aria-hidden": "true" });
    set(svg, { "stroke-width": "1.7", "stroke-linecap": "round", "stroke-linejoin": "round" });
    set(circle, { cx: "10", cy: "10", r: "8.2" });
    svg.append(circle, toast.path);
    const body = make("div", "body");
    toast.title = make("div", "title", { dir: "auto" });
    toast.message = make("div", "message", { dir: "auto" });
    toast.progress = make("progress", "progress", { max: 1 });
    toast.action = make("a", "action");
    toast.action.addEventListener("click", () => this.#leave(toast, "action"));
    body.append(toast.title, toast.message, toast.progress, toast.action);
    const close = make("button", "close", { type: "button", textContent: "\u00d7" });
    close.setAttribute("aria-label", this.getAttribute("label-close") ?? "Dismiss");
    close.hidden = this.getAttribute("dismiss") === "none";
    close.addEventListener("click", () => this.#leave(toast, "button"));
    toast.element.append(svg, body, close);
    this.#fill(toast, event, true);
  }

  #fill(toast, event, isNew) {
    const { payload } = event;
    const type = Object.hasOwn(TYPES, payload.type) ? payload.type : "info";
    toast.event = event;
    toast.left = this.#duration(event, type);
    toast.element.part = `toast ${type}`;
    toast.element.setAttribute("role", type === "error" || type === "warning" ? "alert" : "status");
    toast.path.setAttribute("d", TYPES[type]);
    // A live region is announced when its text changes after it is in the document.
    if (isNew) this.#list.append(toast.element);
    const put = (node, value) => node.textContent !== value && (node.textContent = value);
    put(toast.title, text(payload.title));
    put(toast.message, text(payload.message));
    const progress = payload.progress;
    toast.progress.hidden = typeof progress !== "number" || !(progress >= 0);
    if (!toast.progress.hidden) toast.progress.value = Math.min(1, progress);
    toast.progress.setAttribute("aria-label", toast.title.textContent);
    const url = linked(payload);
    const close = toast.element.lastChild;
    if (!url && this.#focused === toast.action) close.hidden ? this.#moveFocus(toast) : close.focus();
    toast.action.hidden = !url;
    if (!url) return toast.action.removeAttribute("href");
    toast.action.href = url;
    toast.action.rel = "noopener noreferrer";
    toast.action.target = url.startsWith(`${location.origin}/`) ? "" : "_blank";
    put(toast.action, text(payload.action_label) || (this.getAttribute("label-action") ?? "Open"));
  }

  #duration(event, type) {
    const names = [`duration-${type}`, ...(event.id ? [] : ["duration-ephemeral"]), "duration"];
    const given = names.map((name) => this.getAttribute(name)).find((value) => value != null);
    const ms = Number(given ?? (event.id ? 8000 : 5000));
    return ms > 0 ? ms : Infinity;
  }

  /** Time stands still while the pointer or the focus is on the toasts, or the page is hidden or suspended. */
  #tick() {
    const now = performance.now();
    const passed = Math.min(now - this.#last, 10 * TICK);
    this.#last = now;
    const isHovered = matchMedia("(hover: hover)").matches && this.#list.matches(":hover");
    if (document.hidden || isHovered || this.#list.matches(":focus-within")) return;
    for (const toast of [...this.#shown]) {
      toast.left -= passed;
      if (toast.left <= 0) this.#leave(toast, "timeout");
    }
  }

  #leave(toast, reason) {
    if (toast.isLeaving) return;
    toast.isLeaving = true;
    const { element, event } = toast;
    this.#moveFocus(toast);
    element.inert = true;
    element.part.add("leaving");
    const isServer = this.getAttribute("dismiss") === "server";
    if (isServer && event.id && reason !== "timeout" && reason !== "dismissed") {
      const asks = document.dispatchEvent(new CustomEvent("notify-dismiss", { detail: event, cancelable: true }));
      const inbox = asks && this.#inboxOf.get(event);
      if (inbox) this.#request(inbox, event);
    }
    const remove = () => {
      clearTimeout(timer);
      if (!this.#shown.includes(toast)) return;
      element.remove();
      this.#shown.splice(this.#shown.indexOf(toast), 1);
      this.#fit();
      if (!this.#shown.length) this.#timer = void clearInterval(this.#timer) ?? 0;
    };
    const timer = setTimeout(remove, EXIT);
    element.addEventListener("animationend", (ended) => ended.target === element && remove());
    if (getComputedStyle(element).animationName === "none") remove();
  }

  /** Dismiss an item in its inbox. If that is refused, it is queued again. */
  async #request(inbox, event) {
    this.#asked.add(event);
    const ids = [event.id, `${event.id}@${event.user}`]; // the item has one of them; the other is ignored
    const isRefused = await inbox.dismiss(ids).catch(() => true);
    if (this.#asked.delete(event) && isRefused === true) this.#queue.push(event);
    this.#fit();
  }

  // -- keyboard

  get #focused() {
    return this.shadowRoot.activeElement;
  }

  #stops() {
    const nodes = [...this.#list.querySelectorAll("[part~=toast]:not([inert]) :is(a[href], button)")];
    return nodes.filter((node) => !node.hidden);
  }

  #pressed(event) {
    if (event.defaultPrevented) return;
    const stays = this.#shown.filter((toast) => !toast.isLeaving);
    if (event.key === (this.getAttribute("hotkey") ?? "F8") && stays.length && !this.#focused) {
      const [first] = this.#stops();
      if (!first) return;
      this.#returnTo = document.activeElement;
      first.focus();
      event.preventDefault();
    } else if (event.key === "Escape" && this.getAttribute("dismiss") !== "none") {
      const isIdle = !document.activeElement || document.activeElement === document.body;
      const toast = this.#focused ? stays.find((each) => each.element.contains(this.#focused)) : isIdle && stays.at(-1);
      if (!toast) return;
      event.preventDefault();
      this.#leave(toast, "escape");
    }
  }

  /** The focus goes from a toast that leaves to the next one, or back to where it came from. */
  #moveFocus(toast) {
    if (!toast.element.contains(this.#focused)) return;
    const stops = this.#stops();
    const last = stops.findLastIndex((node) => toast.element.contains(node));
    const others = [...stops.slice(last + 1), ...stops.slice(0, last + 1).reverse()];
    const next = others.find((node) => !toast.element.contains(node));
    const back = this.#returnTo;
    if (next) return next.focus();
    this.#returnTo = null;
    this.#focused.blur();
    if (back?.isConnected) back.focus();
  }

  // -- browser notifications

  /** A hidden page does not listen: a message would evict it from the back-forward cache. */
  #answer() {
    this.#tabs?.close();
    if (document.hidden) return;
    const tabs = (this.#tabs = new BroadcastChannel(TABS));
    tabs.onmessage = ({ data }) => data.ask && !document.hidden && tabs.postMessage({ seen: data.ask });
  }

  /** Show a notification of the system, if that is permitted and no tab of this origin is visible. */
  async #notify(event) {
    if (this.getAttribute("system") === "off" || globalThis.Notification?.permission !== "granted") return;
    const ask = Math.random();
    const tabs = new BroadcastChannel(TABS);
    const isSeen = await new Promise((resolve) => {
      tabs.onmessage = ({ data }) => data.seen === ask && resolve(true);
      tabs.postMessage({ ask });
      setTimeout(resolve, 150);
    });
    tabs.close();
    const isOver = !this.#shown.some((toast) => toast.event === event && !toast.isLeaving) && !this.#queue.includes(event);
    if (isSeen || !document.hidden || isOver) return;
    const { id, group, payload, timestamp } = event;
    const tag = text(group) || id || timestamp; // the same in all tabs
    const icon = safeUrl(this.getAttribute("icon"));
    const options = { body: text(payload.message), ...(tag && { tag }), ...(icon && { icon }) };
    let shown;
    try {
      shown = new Notification(text(payload.title) || options.body, options);
    } catch {
      return; // some mobile browsers show notifications from service workers only
    }
    shown.onclick = () => {
      shown.close();
      focus();
      const url = linked(payload);
      if (url) location.assign(url);
    };
  }
}

// -- status -------------------------------------------------------------------------------------------------------

const STATUS = `
:host { display: inline-block; color-scheme: light dark; font: 13px/1.4 var(--notify-font, system-ui, sans-serif); }
[part~=status] { display: inline-flex; align-items: center; gap: 8px; transition: opacity .3s; }
[part~=quiet] { opacity: 0; visibility: hidden; transition: opacity .3s, visibility 0s .3s; }
[part=dot] { flex: none; width: 9px; height: 9px; border-radius: 50%; background: var(--_tone); forced-color-adjust: none; }
[part~=status] { --_tone: var(--notify-muted, light-dark(#8a91a0, #7d8492)); }
[part~=connected] { --_tone: var(--notify-success, light-dark(#1c9a5e, #55cd8f)); }
[part~=connecting] { --_tone: var(--notify-warning, light-dark(#d8920f, #f0b849)); }
[part~=disconnected] { --_tone: var(--notify-error, light-dark(#d13643, #ff8087)); }
[part~=connecting] [part=dot] { animation: pulse 1.2s ease-in-out infinite; }
@keyframes pulse { 50% { opacity: .3; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
`;
const LABELS = { connected: "Connected", connecting: "Connecting", disconnected: "Disconnected", paused: "Paused" };

/** A dot and a label for the state of `client`, or of any client of the page. */
export class NotifyStatus extends Base {
  static observedAttributes = ["hide-after", "fail-after", ...Object.keys(LABELS).map((name) => `label-${name}`)];
  #box;
  #label;
  #state = "quiet";
  #timer = 0;
  #client = null;
  #last = null; // the client that is shown
  #unfollow = null;

  connectedCallback() {
    if (!this.#box) {
      const root = this.attachShadow({ mode: "open" });
      style(root, STATUS);
      this.#box = make("span", "status quiet", { role: "status" });
      this.#label = make("span", "label");
      this.#box.append(make("span", "dot"), this.#label);
      root.append(this.#box);
    }
    if (Object.hasOwn(this, "client")) {
      this.#client = this.#last = this.client; // set before this module was loaded
      delete this.client;
    }
    this.#follow();
  }

  disconnectedCallback() {
    this.#unfollow?.();
    this.#unfollow = null;
    clearTimeout(this.#timer);
  }

  attributeChangedCallback() {
    this.#enter(this.#state);
  }

  get client() {
    return this.#client;
  }

  set client(client) {
    if (client === this.#client) return;
    this.#client = this.#last = client;
    this.#state = "quiet";
    if (this.isConnected) this.#follow();
  }

  #follow() {
    this.#unfollow?.();
    const hear = ({ client, detail }) => {
      this.#last = client;
      this.#take(detail?.status ?? detail);
    };
    if (this.#client) this.#unfollow = this.#client.on("status", (status) => this.#take(status));
    else {
      document.addEventListener("notify-status", hear);
      this.#unfollow = () => document.removeEventListener("notify-status", hear);
    }
    this.#enter(this.#state); // restart its timer
    this.#take(this.#last?.status);
  }

  #take(status) {
    const isTrying = status === "connecting" || status === "reconnecting";
    if (isTrying && (this.#state === "connecting" || this.#state === "disconnected")) return; // the clock runs on
    if (isTrying) this.#enter("connecting");
    else if (status === "connected" || status === "paused") this.#enter(status);
    else if (status === "closed") this.#enter("disconnected");
  }

  #enter(state) {
    this.#state = state;
    if (!this.#unfollow) return;
    clearTimeout(this.#timer);
    this.#box.part = `status ${state}`;
    this.#label.textContent = this.getAttribute(`label-${state}`) ?? LABELS[state];
    const after = (name, otherwise) => Number(this.getAttribute(name) ?? otherwise);
    if (state === "connecting") {
      this.#timer = setTimeout(() => this.#enter("disconnected"), after("fail-after", 10000));
    } else if (state !== "disconnected" && after("hide-after", 5000) > 0) {
      this.#timer = setTimeout(() => this.#box.part.add("quiet"), after("hide-after", 5000));
    }
  }
}

// -- without a script of one's own -------------------------------------------------------------------------------

const warned = new Set();
const warn = (message) => warned.has(message) || (warned.add(message), console.warn(`notify: ${message}`));

/** `data-notify-on` is a pattern for types, `data-notify-call` a function of the page. */
function watch(domEvent) {
  const type = domEvent.detail?.type;
  if (typeof type !== "string") return;
  for (const element of document.querySelectorAll("[data-notify-on]")) {
    const { notifyOn: pattern, notifyCall: path = "" } = element.dataset;
    try {
      if (!new RegExp(pattern).test(type)) continue;
    } catch {
      warn(`data-notify-on="${pattern}" is not a regular expression`);
      continue;
    }
    const names = path.split(".");
    const owner = names.slice(0, -1).reduce((object, name) => object?.[name], globalThis);
    const call = owner?.[names.at(-1)];
    if (typeof call !== "function") {
      warn(`data-notify-call="${path}" is not a function`);
      continue;
    }
    try {
      call.call(owner, element, domEvent.detail, domEvent);
    } catch (error) {
      reportError(error);
    }
  }
}

/** A script element with `data-url` connects by itself. */
async function start() {
  const isOwn = (script) => script.src === import.meta.url;
  const own = [...document.querySelectorAll("script[data-url]")].find(isOwn);
  if (!own) return;
  const { connect } = await import(new URL("client.js", import.meta.url));
  const { url, when = "always", storage } = own.dataset;
  const [, kind] = /^(local|session)(?:Storage)?$/.exec(storage) ?? [];
  if (storage && !kind) warn(`data-storage="${storage}" is neither "local" nor "session": the position is not kept`);
  let kept;
  try {
    kept = kind && globalThis[`${kind}Storage`];
  } catch {} // blocked in this browser
  globalThis.notifyClient ??= connect(url, { when, storage: kept });
}

if (globalThis.customElements && !customElements.get("notify-toasts")) {
  customElements.define("notify-toasts", NotifyToasts);
  customElements.define("notify-status", NotifyStatus);
  document.addEventListener("notify", watch);
  start().catch(reportError);
  if (document.querySelector("notify-bell")) import("./bell.js").catch(reportError);
}
