// Random histories of <notify-toasts> beside a model of it. The page has a clock of its own: a history takes no time.
const timers = new Map();
let now = 0, next = 1;
const start = (act, ms, every) => (timers.set(next, { act, at: now + ms, every }), next++);
window.setTimeout = (act, ms = 0) => start(act, ms);
window.setInterval = (act, ms) => start(act, ms, ms);
window.clearTimeout = window.clearInterval = (id) => void timers.delete(id);
performance.now = () => now;
function pass(ms) {
  const end = now + ms;
  for (;;) {
    const soon = [...timers].filter(([, { at }]) => at <= end);
    const [id, due] = soon.sort(([a, x], [b, y]) => x.at - y.at || a - b)[0] ?? [];
    if (!due) break;
    now = due.at;
    if (due.every) due.at += due.every;
    else timers.delete(id);
    due.act();
  }
  now = end;
}

const channels = new Set();
window.BroadcastChannel = class {
  constructor() { channels.add(this); }
  postMessage() {}
  close() { channels.delete(this); }
};
const wide = Object.assign(new EventTarget(), { matches: true });
const { matchMedia: real } = window;
window.matchMedia = (query) => (query.includes("768") ? wide : real.call(window, query));
let hidden = false;
Object.defineProperty(document, "hidden", { get: () => hidden });

function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const LASTS = { info: 800, success: 500 };
const keyOf = ({ id, user }) => id && `${user} ${id}`;
const numberOf = (event) => event.meta?.notification;

/** What the toasts are once nothing moves any more. */
class Model {
  shown = []; queue = []; seen = new Set(); asked = new Set(); isIn = true;

  fit() {
    if (!this.isIn) return;
    const limit = wide.matches ? 3 : 2;
    while (this.shown.length > limit) this.queue.unshift(this.shown.pop().event);
    while (this.queue.length && this.shown.length < limit) this.enter({}, this.queue.shift());
  }
  enter(toast, event) {
    if (!toast.event) this.shown.push(toast);
    Object.assign(toast, { event, left: LASTS[event.payload.type] ?? (event.id ? Infinity : 300) });
  }
  take(event) {
    const known = this.seen.has(numberOf(event));
    if (this.seen.has(keyOf(event)) || (known && !event.id)) return;
    for (const each of [keyOf(event), numberOf(event)]) if (each) this.seen.add(each);
    const isSame = (other) =>
      (event.group && other.group === event.group && other.user === event.user) ||
      (numberOf(event) && numberOf(other) === numberOf(event));
    const toast = this.shown.find((each) => isSame(each.event));
    const at = this.queue.findIndex(isSame);
    if (known && !toast && at < 0) return;
    for (const each of this.asked) if (isSame(each)) this.asked.delete(each);
    if (toast) this.enter(toast, event);
    else if (at >= 0) this.queue[at] = event;
    else this.queue.push(event);
    this.fit();
  }
  drop(goes) {
    for (const each of this.asked) if (goes(each)) this.asked.delete(each);
    this.queue = this.queue.filter((event) => !goes(event));
    this.shown = this.shown.filter(({ event }) => !goes(event));
    this.fit();
  }
  leave(toast) {
    this.shown.splice(this.shown.indexOf(toast), 1);
    if (toast.event.item) this.asked.add(toast.event);
    this.fit();
  }
  tick() {
    for (const toast of [...this.shown]) {
      toast.left -= 100;
      if (toast.left > 0) continue;
      this.shown.splice(this.shown.indexOf(toast), 1);
      this.fit();
    }
  }
}

window.history_of = async (seed, isSlow, steps = 40) => {
  const chance = random(seed);
  const upTo = (n) => Math.floor(chance() * n);
  const one = (list) => list[upTo(list.length)];
  const log = [], asks = [];
  document.querySelector("notify-toasts")?.remove(); // of a history that failed
  pass(500);
  const before = { timers: timers.size, channels: channels.size };
  const model = new Model();
  const element = document.createElement("notify-toasts");
  element.className = isSlow ? "slow" : "calm";
  const lasts = { info: LASTS.info, success: LASTS.success, ephemeral: 300 };
  for (const name of Object.keys(lasts)) element.setAttribute(`duration-${name}`, isSlow ? 0 : lasts[name]);
  element.setAttribute("duration", 0);
  element.setAttribute("dismiss", "server");
  const client = { inbox: () => ({ subscribe() {}, close() {}, loading: true, dismiss: ([id, name]) =>
    new Promise((done, fail) => asks.push({ id: name, done, fail })) }) };
  document.body.append(element);
  let count = 0;
  const nodes = () => [...element.shadowRoot.querySelectorAll("[part~=toast]:not([inert])")];
  const focused = () => nodes().findIndex((node) => node.contains(element.shadowRoot.activeElement));
  const emit = (detail) => {
    document.dispatchEvent(Object.assign(new CustomEvent("notify", { detail, cancelable: true }), { client }));
    if (!model.isIn) return;
    if (detail.type === "generic") return model.take(detail);
    const { ids, group } = detail.payload;
    if (ids) model.drop(({ id, user }) => ids.includes(`${id}@${user}`) || (user === detail.user && ids.includes(id)));
    else model.drop((event) => event.group === group);
  };
  const event = () => {
    const id = chance() < 0.8 ? `${chance() < 0.1 ? 1 + upTo(count) : ++count}-0` : undefined;
    const type = one(["info", "info", "success", "error"]);
    const payload = { type, title: `${++count}`, ...(chance() < 0.3 && { url: "#" }) };
    return { type: "generic", user: one(["a", "b"]), id, payload, group: one(["g", "h", undefined, undefined]),
      ...(id && chance() < 0.6 && { item: {} }), meta: chance() < 0.15 ? { notification: `n${upTo(4)}` } : {} };
  };
  const dismissal = () => {
    const ids = [1 + upTo(count + 1), 1 + upTo(count + 1)].map((n) => `${n}-0${chance() < 0.3 ? "@b" : ""}`);
    const payload = chance() < 0.6 ? { ids } : { group: one(["g", "h"]) };
    return { type: "notify.dismissed", user: one(["a", "b"]), payload };
  };
  const settle = () => isSlow && pass(500);
  const acts = {
    emit: () => { for (let n = 1 + upTo(4); n--; ) emit(chance() < 0.85 ? event() : dismissal()); },
    dismissed: () => emit(dismissal()),
    click: () => {
      const at = upTo(model.shown.length);
      const node = model.isIn && nodes()[at];
      if (!node || (isSlow && nodes().length !== model.shown.length)) return;
      const action = node.querySelector("[part=action]:not([hidden])");
      (chance() < 0.3 && action ? action : node.querySelector("[part=close]")).click();
      model.leave(model.shown[at]);
    },
    escape: () => {
      if (!model.isIn || (isSlow && nodes().length !== model.shown.length)) return;
      const at = focused();
      document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true }));
      const toast = at < 0 ? model.shown.at(-1) : model.shown[at];
      if (toast) model.leave(toast);
    },
    all: () => chance() < 0.2 && (model.isIn || isSlow) && (element.dismiss(), model.drop(() => true)),
    show: () => { const made = event(); delete made.item; element.show(made); model.take(made); },
    resize: () => { wide.matches = !wide.matches; wide.dispatchEvent(new Event("change")); model.fit(); },
    hide: () => (hidden = !hidden),
    focus: () => one(nodes())?.querySelector("[part=close]").focus(),
    blur: () => element.shadowRoot.activeElement?.blur(),
    move: () => {
      if (model.isIn) element.remove();
      else document.body.append(element);
      model.isIn = !model.isIn;
      model.fit();
    },
    answer: () => {
      const [asked] = asks.length ? asks.splice(upTo(asks.length), 1) : [];
      if (!asked) return;
      const isRefused = chance() < 0.6;
      isRefused ? asked.fail(Error("503")) : asked.done({});
      for (const each of model.asked) {
        if (`${each.id}@${each.user}` !== asked.id) continue;
        model.asked.delete(each);
        if (isRefused) model.queue.push(each);
      }
      model.fit();
    },
    time: () => {
      if (isSlow) return settle();
      for (let n = 1 + upTo(6); n--; ) {
        const isPaused = hidden || !model.isIn || focused() >= 0;
        pass(100);
        if (!isPaused) model.tick();
      }
    },
  };
  const expected = () => JSON.stringify(model.shown.map(({ event: { payload } }) => payload.title));
  const seen = () => JSON.stringify(nodes().map((node) => node.querySelector("[part=title]").textContent));
  for (let step = 0; step < steps; step++) {
    const name = one(["emit", "emit", "emit", "click", "click", ...Object.keys(acts)]);
    const had = focused() >= 0 && name !== "blur" && name !== "move" && nodes();
    log.push(name);
    acts[name]();
    for (let n = 0; n < 20; n++) await null;
    if (isSlow && chance() < 0.6) continue;
    settle();
    for (let n = 0; n < 20; n++) await null;
    if (!model.isIn) continue;
    if (seen() !== expected()) return { seed, isSlow, log, seen: seen(), expected: expected() };
    const wrong = nodes().some((node, at) => {
      const { payload } = model.shown[at].event;
      return !node.part.contains(payload.type) || (node.role === "alert") !== (payload.type === "error");
    });
    if (wrong) return { seed, isSlow, log, wrong: "role" };
    const isLost = !isSlow && had && had.some((node) => nodes().includes(node)) && focused() < 0;
    if (isLost) return { seed, log, wrong: "focus" };
  }
  element.remove();
  pass(500);
  for (const { done } of asks) done({});
  const left = { timers: timers.size - before.timers, channels: channels.size - before.channels };
  hidden = false;
  wide.matches = true;
  if (left.timers || left.channels) return { seed, isSlow, log, left };
  return null;
};
