// <notify-bell>: the inbox of a client as a badge and a panel. How to use it: docs/howto/inbox-ui.md.
//
//   <script type="module" src="/notify/bell.js"></script> <notify-bell></notify-bell>
//
// What an event contains is only ever set as text. Styles are an adopted style sheet.
import { clients } from "./client.js";

const TEXTS = {
  bell: "Notifications",
  count: "{n} unread",
  all: "All",
  unread: "Unread",
  "read-all": "Mark all read",
  dismiss: "Dismiss",
  dismissed: "Dismissed",
  undo: "Undo",
  more: "Load more",
  loading: "Loading",
  empty: "Nothing here yet",
  "empty-unread": "You are up to date",
  error: "Notifications could not be loaded",
  failed: "That did not work",
  retry: "Try again",
};
const VIEWED = 1000; // ms for which an item is visible until it counts as read
const UNDO = 8000; // ms for which the undo is offered
const LEAVE = 1500; // ms for which a link waits until what was marked is stored

const Base = globalThis.HTMLElement ?? class {}; // so that a server may import this module
const text = (value) => (value == null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
const safeUrl = (value) => {
  if (typeof value !== "string" || !value || !URL.canParse(value, document.baseURI)) return "";
  const { href, origin, protocol } = new URL(value, document.baseURI);
  return /^https?:$/.test(protocol) && (origin === location.origin || /^https?:\/\//i.test(value)) ? href : "";
};
const put = (node, value) => node.textContent !== value && (node.textContent = value);
const make = (tag, part, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), { part });
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

const CSS = `
:host {
  color-scheme: light dark; position: relative; display: inline-block; font: 14px/1.45 var(--notify-font, system-ui, sans-serif);
  --_bg: var(--notify-background, light-dark(#fff, #1d2027));
  --_text: var(--notify-text, light-dark(#1a1d24, #eceef2));
  --_muted: var(--notify-muted, light-dark(#596070, #a3aab8));
  --_border: var(--notify-border, light-dark(#0000001a, #ffffff24));
  --_info: var(--notify-info, light-dark(#2b5fd9, #7aa5ff));
  --_success: var(--notify-success, light-dark(#17794a, #55cd8f));
  --_warning: var(--notify-warning, light-dark(#96600a, #f0b849));
  --_error: var(--notify-error, light-dark(#c22f3d, #ff8087));
}
* { box-sizing: border-box; }
button { all: unset; box-sizing: border-box; cursor: pointer; color: inherit; border-radius: 7px; }
:focus-visible { outline: 2px solid var(--_info); outline-offset: 1px; }
[hidden] { display: none !important; }
[part=bell] { position: relative; display: grid; place-items: center; width: 40px; height: 40px; border-radius: 50%; color: var(--_text); }
:is([part=bell], [part=dismiss], [part=all], [part=more]):hover { background: var(--_border); }
[part=badge] {
  position: absolute; inset-block-start: 1px; inset-inline-end: 0; min-width: 18px; padding: 0 5px; border-radius: 9px;
  background: var(--_error); color: light-dark(#fff, #14161a); font: 700 11px/18px system-ui, sans-serif; text-align: center;
}
[part=panel] {
  position: absolute; inset-block-start: calc(100% + 8px); inset-inline-end: 0; z-index: var(--notify-z-index, 2147483000);
  display: flex; flex-direction: column; width: min(var(--notify-width, 384px), 100vw - 24px); max-height: min(560px, 80vh);
  overflow: hidden; background: var(--_bg); color: var(--_text); border: 1px solid var(--_border);
  border-radius: var(--notify-radius, 12px); box-shadow: var(--notify-shadow, 0 1px 2px #0000000f, 0 16px 40px -8px #00000047);
  animation: in .16s ease-out;
}
:host([inline]) { display: block; }
:host([inline]) [part=bell] { display: none; }
:host([inline]) [part=panel] { position: static; width: auto; box-shadow: none; animation: none; }
:host([align=start]) [part=panel] { inset-inline: 0 auto; }
[part=head] { display: flex; align-items: center; gap: 4px; padding: 10px 12px; border-bottom: 1px solid var(--_border); }
[part=tabs] { display: flex; gap: 2px; flex: 1; }
[role=tab] { padding: 4px 11px; color: var(--_muted); font-weight: 550; }
[role=tab][aria-selected=true] { color: var(--_text); background: var(--_border); }
[part=all] { padding: 4px 8px; color: var(--_info); font-weight: 550; }
[part=all][disabled] { color: var(--_muted); opacity: .6; cursor: default; background: none; }
[part=scroll] { overflow: auto; overscroll-behavior: contain; min-height: 0; flex: 1; }
[part~=item] {
  position: relative; display: grid; grid-template-columns: 8px minmax(0, 1fr) auto; gap: 0 12px; align-items: start;
  padding: 12px 10px 12px 14px; cursor: default;
}
[part~=item] + [part~=item] { border-top: 1px solid var(--_border); }
[part~=item]:focus-visible { outline-offset: -3px; border-radius: 10px; }
[part~=link] { cursor: pointer; }
[part~=link]:hover { background: light-dark(#00000008, #ffffff0a); }
[part=dot] { width: 8px; height: 8px; margin-top: 6px; border-radius: 50%; background: var(--_tone, var(--_info)); transition: opacity .3s; }
[part~=read] [part=dot] { opacity: 0; }
[part~=success] { --_tone: var(--_success); } [part~=warning] { --_tone: var(--_warning); } [part~=error] { --_tone: var(--_error); }
[part=title] { font-weight: 600; overflow-wrap: anywhere; max-height: 4.35em; overflow: hidden; }
[part~=read] [part=title] { font-weight: 450; }
[part=message] { color: var(--_muted); overflow-wrap: anywhere; white-space: pre-line; max-height: 5.8em; overflow: hidden; }
[part=time] { color: var(--_muted); font-size: 12px; }
[part=title]:empty, [part=message]:empty { display: none; }
[part=dismiss] { width: 26px; height: 26px; color: var(--_muted); text-align: center; font: 18px/24px system-ui, sans-serif; }
[part=note] { padding: 44px 24px; text-align: center; color: var(--_muted); }
[part=note] button, [part=bar] button { margin-inline-start: 8px; padding: 2px 8px; color: var(--_info); font-weight: 600; }
[part=more] { display: block; width: calc(100% - 20px); margin: 8px 10px; padding: 7px; text-align: center; color: var(--_info); font-weight: 550; }
[part=bar] { display: flex; align-items: center; justify-content: space-between; padding: 8px 14px; border-top: 1px solid var(--_border); }
[part=live] { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@keyframes in { from { opacity: 0; transform: translateY(-6px); } }
@media (max-width: 599.98px) { [part=panel] { position: fixed; inset: 64px 12px auto !important; width: auto; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
@media (forced-colors: active) { [part=panel], [part=badge] { border: 1px solid CanvasText; } [part=dot] { background: CanvasText; }
  [role=tab][aria-selected=true] { forced-color-adjust: none; background: SelectedItem; color: SelectedItemText; } }
`;

/**
 * Attributes: `read` ("view": what was visible for a second; "click": what was opened; "none"), `count` ("unread" or
 * "unseen": what the badge shows), `inline` (the panel alone, as a part of the page), `title-badge` and `app-badge` (the number in the page's title and on the application's
 * icon), `types` (only these), `limit` (of a page), `align` ("start" or "end"), and `label-<name>` for each text.
 * Properties: `client`, `describe` (item => ({title, message, url})). Events: `notify-open` (cancellable), detail: the item.
 */
export class NotifyBell extends Base {
  describe = this.describe ?? (({ type, payload }) => ({ title: payload?.title ?? (payload?.message ? "" : type), message: payload?.message, url: payload?.action_url ?? payload?.url }));
  #client = null;
  #boxes = {}; // an inbox for each tab that was opened
  #tab = "active";
  #kept = new Set(); // ids that were unread when the tab of the unread ones showed them
  #rows = new Map();
  #gone = null; // the item that the undo restores
  #tried = null; // the latest request of the user, when it has ended
  #nodes = null;
  #stop = null;
  #viewed = new Map(); // the timers of visible items
  #due = []; // ids of items that were viewed, and are marked together
  #timer = 0;
  #observer = null;
  #told = Infinity;
  #seenAt = "";
  #base = "";

  connectedCallback() {
    this.#nodes ??= this.#build();
    if (Object.hasOwn(this, "client")) {
      const { client } = this; // set before this module was there
      delete this.client;
      this.client = client;
    }
    if (this.#isInline) this.#nodes.panel.hidden = false;
    this.#stop = new AbortController();
    const listen = (target, name, handle) => target.addEventListener(name, handle, { signal: this.#stop.signal });
    listen(document, "notify-status", ({ client }) => {
      if (!this.#client || (this.#client.status === "closed" && client.status !== "closed")) this.client = client;
    });
    listen(document, "pointerdown", (event) => event.composedPath().includes(this) || this.#toggle(false));
    listen(document, "visibilitychange", () => document.hidden || this.#draw());
    listen(this, "keydown", (event) => this.#pressed(event));
    listen(this, "focusout", ({ relatedTarget }) => relatedTarget && !this.contains(relatedTarget) && relatedTarget !== this && this.#toggle(false));
    this.#observer = new IntersectionObserver((seen) => this.#looked(seen), { root: this.#nodes.scroll, threshold: 0.5 });
    for (const row of this.#rows.values()) this.#observer.observe(row);
    if (this.#client) this.#follow();
    else this.client = [...clients].find(({ status }) => status !== "closed") ?? null;
    this.#draw();
  }

  disconnectedCallback() {
    this.#stop.abort();
    this.#observer.disconnect();
    for (const timer of [...this.#viewed.values(), this.#timer]) clearTimeout(timer);
    this.#close();
    this.#badges(0);
  }

  get client() {
    return this.#client;
  }

  set client(client) {
    this.#close();
    this.#client = client;
    if (client && this.isConnected) this.#follow();
    else this.#draw();
  }

  get open() {
    return !!this.#nodes && !this.#nodes.panel.hidden;
  }

  set open(isOpen) {
    this.#toggle(isOpen);
  }

  get #isInline() {
    return this.hasAttribute("inline");
  }

  #text = (name) => this.getAttribute(name === "bell" ? "label" : `label-${name}`) ?? TEXTS[name];

  get #box() {
    return this.#boxes[this.#tab];
  }

  #follow() {
    const types = this.getAttribute("types")?.split(/\s+/).filter(Boolean);
    const limit = Number(this.getAttribute("limit")) || 20;
    const box = this.#client.inbox({ filter: { state: this.#tab, types }, limit });
    this.#boxes[this.#tab] = box;
    box.subscribe(() => this.#draw());
    this.#draw();
  }

  #close() {
    for (const box of Object.values(this.#boxes)) box.close();
    this.#boxes = {};
    this.#tab = "active";
    this.#kept.clear();
    this.#due = [];
    this.#seenAt = "";
    if (this.#nodes) this.#nodes.bar.hidden = true; // with its undo
  }

  // -- what is visible

  #build() {
    const root = this.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];
    const n = {};
    const button = (part, name, act, more) => (n[name] = make("button", part, { type: "button", ...more }), n[name].addEventListener("click", act), n[name]);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS(svg.namespaceURI, "path");
    const shape = "M12 3.5a6 6 0 0 0-6 6c0 4.2-1.6 5.8-2.4 6.7h16.8c-.8-.9-2.4-2.5-2.4-6.7a6 6 0 0 0-6-6zM10 19.2a2.1 2.1 0 0 0 4 0";
    const look = { viewBox: "0 0 24 24", width: 22, height: 22, fill: "none", stroke: "currentColor", "stroke-width": 1.7 };
    for (const [name, value] of Object.entries(look)) svg.setAttribute(name, value);
    path.setAttribute("d", shape);
    path.setAttribute("stroke-linejoin", "round");
    svg.setAttribute("aria-hidden", "true");
    svg.append(path);
    n.badge = make("span", "badge", { hidden: true, "aria-hidden": "true" });
    button("bell", "bell", () => this.#toggle(!this.open), { "aria-haspopup": "dialog", "aria-expanded": "false" }).append(svg, n.badge);
    const tab = (state) => button("tab", state, () => this.#show(state), { role: "tab", id: state, "aria-controls": "list" });
    n.tabs = make("div", "tabs", { role: "tablist" }, tab("active"), tab("unread"));
    button("all", "readAll", () => this.#try(this.#boxes.active.readUpTo()));
    n.list = make("div", "list", { id: "list", role: "feed" });
    n.note = make("div", "note", {}, (n.says = make("span", "says")), button("retry", "retry", () => this.#try(this.#box.refresh())));
    n.scroll = make("div", "scroll", { role: "tabpanel", tabIndex: -1 }, n.list, n.note, button("more", "more", () => this.#try(this.#box.more())));
    n.bar = make("div", "bar", { hidden: true }, (n.barText = make("span", "text")), button("undo", "undo", () => this.#undo()));
    n.panel = make("div", "panel", { role: "dialog", hidden: true }, make("div", "head", {}, n.tabs, n.readAll), n.scroll, n.bar);
    n.live = make("div", "live", { role: "status" });
    root.append(n.bell, n.panel, n.live);
    return n;
  }

  #items() {
    const { active, unread } = this.#boxes;
    if (this.#tab === "active") return active?.items ?? [];
    const items = unread?.items ?? [];
    for (const { id } of items) this.#kept.add(id);
    const now = new Set(items.map(({ id }) => id));
    const mixed = [...items, ...(active?.items ?? []).filter(({ id }) => this.#kept.has(id) && !now.has(id))];
    return mixed.sort((a, b) => (a.timestamp < b.timestamp ? 1 : a.timestamp > b.timestamp ? -1 : 0));
  }

  #draw() {
    const n = this.#nodes;
    const box = this.#boxes.active;
    if (!n || !this.isConnected) return;
    const counts = box?.counts ?? { unread: 0, unseen: 0 };
    const number = counts[this.getAttribute("count") === "unseen" ? "unseen" : "unread"];
    const short = number > 99 ? "99+" : String(number);
    const said = this.#text("count").replace("{n}", number);
    n.badge.hidden = !number;
    put(n.badge, short);
    n.bell.setAttribute("aria-label", number ? `${this.#text("bell")}, ${said}` : this.#text("bell"));
    if (number > this.#told) put(n.live, said);
    this.#told = number;
    this.#badges(number);
    if (n.panel.hidden) return;
    n.panel.setAttribute("aria-label", this.#text("bell"));
    put(n.active, this.#text("all"));
    put(n.unread, this.#text("unread"));
    for (const tab of [n.active, n.unread]) {
      const isSelected = tab.id === this.#tab;
      tab.setAttribute("aria-selected", isSelected);
      tab.tabIndex = isSelected ? 0 : -1;
    }
    n.scroll.setAttribute("aria-labelledby", this.#tab);
    put(n.readAll, this.#text("read-all"));
    n.readAll.toggleAttribute("disabled", !counts.unread);
    const { error, loading, hasMore } = this.#box ?? { loading: true };
    const items = this.#items();
    this.#rowsOf(items, hasMore);
    n.list.setAttribute("aria-busy", !!loading);
    n.note.hidden = items.length > 0;
    const empty = this.#tab === "unread" ? "empty-unread" : "empty";
    put(n.says, this.#text(error ? "error" : loading ? "loading" : empty));
    n.retry.hidden = !error || loading;
    put(n.retry, this.#text("retry"));
    n.more.hidden = !hasMore;
    put(n.more, this.#text(loading ? "loading" : "more"));
    n.more.toggleAttribute("disabled", !!loading);
    put(n.undo, this.#text("undo"));
    const at = `${counts.position} ${items[0]?.id}`;
    if (document.hidden || !counts.unseen || box.loading || box.error || at === this.#seenAt) return;
    this.#seenAt = at; // what a mark does not reach is not marked again and again
    box.seen().catch(() => {});
  }

  #rowsOf(items, hasMore) {
    const { list } = this.#nodes;
    const ids = new Set(items.map(({ id }) => id));
    const focused = this.shadowRoot.activeElement?.closest?.("[part~=item]");
    const order = [...list.children];
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      this.#forget(row);
      this.#rows.delete(id);
      if (row !== focused) continue;
      const rest = order.slice(order.indexOf(row)).concat(order.slice(0, order.indexOf(row)).reverse());
      (rest.find((other) => ids.has(other.item.id)) ?? this.#nodes.active).focus();
    }
    for (const row of order) if (!ids.has(row.item.id)) row.remove();
    let next = list.firstElementChild;
    items.forEach((item, index) => {
      const row = this.#rows.get(item.id) ?? this.#enter(item);
      this.#fill(row, item);
      row.setAttribute("aria-posinset", index + 1);
      row.setAttribute("aria-setsize", hasMore ? -1 : items.length);
      if (row === next) next = row.nextElementSibling;
      else list.insertBefore(row, next);
    });
    if (!list.querySelector('[tabindex="0"]')) this.#rove(list.firstElementChild);
  }

  #number = 0;

  #enter(item) {
    const row = make("article", "item", { tabIndex: -1 });
    const id = `title-${(this.#number += 1)}`;
    row.title_ = make("div", "title", { dir: "auto", id });
    row.message = make("div", "message", { dir: "auto" });
    row.time = make("time", "time");
    row.close = make("button", "dismiss", { type: "button", tabIndex: -1, textContent: "\u00d7" });
    row.setAttribute("aria-labelledby", id);
    row.close.addEventListener("click", (event) => {
      event.stopPropagation();
      this.#dismiss(row.item);
    });
    row.addEventListener("click", () => this.#activate(row.item));
    row.addEventListener("focus", () => this.#rove(row));
    row.append(make("span", "dot"), make("div", "body", {}, row.title_, row.message, row.time), row.close);
    this.#rows.set(item.id, row);
    this.#observer.observe(row);
    return row;
  }

  #fill(row, item) {
    const { title, message, url } = this.describe(item);
    const at = new Date(item.timestamp);
    row.item = item;
    put(row.title_, text(title));
    put(row.message, text(message));
    put(row.time, this.#ago(at));
    row.time.dateTime = item.timestamp;
    row.time.title = at.toLocaleString(this.lang || undefined);
    row.close.setAttribute("aria-label", `${this.#text("dismiss")}: ${row.title_.textContent || row.message.textContent}`);
    row.setAttribute("aria-description", item.read_at ? "" : this.#text("unread"));
    const kind = ["success", "warning", "error"].includes(item.payload?.type) ? item.payload.type : "";
    row.part = `item ${kind} ${item.read_at ? "read" : "unread"} ${safeUrl(url) ? "link" : ""}`;
  }

  #ago(at) {
    const seconds = (at - Date.now()) / 1000;
    const format = new Intl.RelativeTimeFormat(this.closest("[lang]")?.lang || undefined, { numeric: "auto", style: "short" });
    const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60]].find(([, size]) => -seconds >= size) ?? ["second", 1];
    return isNaN(at) ? "" : format.format(unit === "second" ? 0 : Math.round(seconds / size), unit);
  }

  #forget(row) {
    this.#observer.unobserve(row);
    clearTimeout(this.#viewed.get(row));
    this.#viewed.delete(row);
  }

  #rove(row) {
    for (const other of this.#rows.values()) other.tabIndex = other.close.tabIndex = other === row ? 0 : -1;
  }

  // -- what happens

  #toggle(isOpen) {
    const n = this.#nodes;
    if (!n || this.#isInline || isOpen === this.open) return;
    const hadFocus = this.shadowRoot.activeElement;
    n.panel.hidden = !isOpen;
    n.bell.setAttribute("aria-expanded", isOpen);
    n.bar.hidden = true;
    if (isOpen) {
      this.#draw();
      (n.list.querySelector('[tabindex="0"]') ?? n[this.#tab]).focus({ preventScroll: true });
    } else {
      this.#kept.clear();
      for (const timer of this.#viewed.values()) clearTimeout(timer);
      if (n.panel.contains(hadFocus)) n.bell.focus();
    }
  }

  #show(tab) {
    this.#tab = tab;
    this.#kept.clear();
    if (this.#client && !this.#boxes[tab]) this.#follow();
    else this.#draw();
    this.#nodes.scroll.scrollTop = 0;
  }

  /** What fails was taken back by the inbox; say so. */
  #try(promise) {
    this.#tried = promise.catch(() => this.#say(this.#text("failed"), false));
  }

  #say(words, hasUndo) {
    const { bar, barText, undo, live } = this.#nodes;
    barText.textContent = live.textContent = words;
    undo.hidden = !hasUndo;
    bar.hidden = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (bar.matches(":focus-within") ? 0 : (bar.hidden = true)), UNDO);
  }

  #looked(entries) {
    for (const { target: row, isIntersecting } of entries) {
      clearTimeout(this.#viewed.get(row));
      if (isIntersecting) this.#viewed.set(row, setTimeout(() => this.#view(row), VIEWED));
      else this.#viewed.delete(row);
    }
  }

  #view(row) {
    if (!this.open || !["view", null].includes(this.getAttribute("read"))) return;
    if (document.hidden) return void this.#viewed.set(row, setTimeout(() => this.#view(row), VIEWED));
    if (row.item.read_at || this.#due.push(row.item.id) > 1) return;
    setTimeout(() => this.#boxes.active?.read(this.#due.splice(0)).catch(() => {}), 50);
  }

  #activate(item) {
    const event = new CustomEvent("notify-open", { detail: item, bubbles: true, composed: true, cancelable: true });
    const isCancelled = !this.dispatchEvent(event);
    if (!item.read_at && this.getAttribute("read") !== "none") this.#try(this.#boxes.active.read(item.id));
    const url = safeUrl(this.describe(item).url);
    if (isCancelled || !url) return;
    if (!url.startsWith(`${location.origin}/`)) return void open(url, "_blank", "noopener,noreferrer");
    const late = new Promise((done) => setTimeout(done, LEAVE));
    const left = new Promise((done) => addEventListener("pagehide", () => done("left"), { once: true }));
    Promise.race([this.#tried, late, left]).then((end) => end === "left" || location.assign(url));
  }

  #dismiss(item) {
    this.#gone = item;
    this.#kept.delete(item.id);
    this.#say(this.#text("dismissed"), true);
    this.#try(this.#boxes.active.dismiss(item.id));
  }

  #undo() {
    this.#nodes.bar.hidden = true;
    const { id, read_at } = this.#gone;
    const box = this.#boxes.active;
    this.#try(read_at ? box.restore(id) : box.unread(id)); // dismissing marks as read, and `unread` restores
    this.#rows.get(id)?.focus();
  }

  #pressed(event) {
    const { key, ctrlKey, metaKey } = event;
    const n = this.#nodes;
    const focused = this.shadowRoot.activeElement;
    const row = focused?.closest("[part~=item]");
    const rows = [...n.list.children];
    const isRtl = this.matches(":dir(rtl)");
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 1, PageUp: -1 }[key];
    const side = { ArrowRight: 1, ArrowLeft: -1 }[key] * (isRtl ? -1 : 1);
    if (!this.open) {
      if (key !== "ArrowDown") return;
      this.#toggle(true);
    } else if (key === "Escape") this.#toggle(false);
    else if (n.tabs.contains(focused) && side) {
      this.#show(this.#tab === "active" ? "unread" : "active");
      n[this.#tab].focus();
    } else if (step && (row || n.tabs.contains(focused))) (rows[Math.max(0, rows.indexOf(row) + step)] ?? (n.more.hidden ? row : n.more))?.focus();
    else if (row && (key === "Home" || key === "End")) rows.at(key === "Home" ? 0 : -1).focus();
    else if (row && (key === "Delete" || key === "Backspace")) this.#dismiss(row.item);
    else if (focused === row && row && (key === "Enter" || key === " ")) this.#activate(row.item);
    else if (key.toLowerCase() === "z" && (ctrlKey || metaKey) && !n.bar.hidden && !n.undo.hidden) this.#undo();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // -- badges outside of the element

  #badges(number) {
    if (this.hasAttribute("title-badge")) {
      const title = document.title.startsWith(this.#base) ? document.title.slice(this.#base.length) : document.title;
      this.#base = number ? `(${number > 99 ? "99+" : number}) ` : "";
      if (document.title !== this.#base + title) document.title = this.#base + title;
    }
    if (!this.hasAttribute("app-badge") || !navigator.setAppBadge) return;
    (number ? navigator.setAppBadge(number) : navigator.clearAppBadge()).catch(() => {});
  }
}

if (globalThis.customElements && !customElements.get("notify-bell")) customElements.define("notify-bell", NotifyBell);
