// <notify-preferences>: what a user switches on and off, over a DispatchApp. How to use it: docs/howto/preferences.md.
// Names come from the server and are only ever set as text. Styles are an adopted style sheet.
import { request } from "./request.js";

const TEXTS = {
  preferences: "Notification settings",
  type: "Notification",
  all: "All notifications",
  always: "Always on",
  consent: "{name}: I agree to receive these",
  "needs-consent": "needs your agreement",
  "all-off": "All notifications are switched off.",
  "all-on": "Switch on",
  unsubscribed: "You have unsubscribed: {category}, {channel}.",
  "all-channels": "all channels",
  resubscribe: "Subscribe again",
  quiet: "Quiet hours",
  "quiet-hint": "Messages in these hours are held until the hours are over, except critical ones.",
  from: "From",
  to: "To",
  "all-day": "All day",
  days: "Days",
  only: "Only: {channels}",
  add: "Add quiet hours",
  remove: "Remove",
  tz: "Time zone",
  "tz-new": "Quiet hours will be in this device's time zone, {zone}, unless you choose one.",
  "tz-other": "This device's time zone is {zone}.",
  "tz-use": "Use {zone}",
  saving: "Saving",
  saved: "Saved",
  failed: "The change was not saved",
  same: "The end must differ from the start",
  loading: "Loading",
  error: "The settings could not be loaded",
  retry: "Try again",
};
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const TYPING = 900; // ms without a change after which a time is saved that still has the focus
const OWN = Intl.DateTimeFormat().resolvedOptions().timeZone;
const FIXED = /^(mandatory|override)$/; // layers that the user cannot change

const Base = globalThis.HTMLElement ?? class {}; // so that a server may import this module
const put = (node, value) => node.textContent !== value && (node.textContent = value);
const words = (name) => (name[0] ?? "").toUpperCase() + name.slice(1).replace(/[._:-]+/g, " ");
const make = (tag, part, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), part && { part });
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

const CSS = `
:host {
  color-scheme: light dark; display: block; container-type: inline-size; font: 14px/1.45 var(--notify-font, system-ui, sans-serif);
  --_bg: var(--notify-background, light-dark(#fff, #1d2027));
  --_text: var(--notify-text, light-dark(#1a1d24, #eceef2));
  --_muted: var(--notify-muted, light-dark(#596070, #a3aab8));
  --_border: var(--notify-border, light-dark(#0000001a, #ffffff24));
  --_info: var(--notify-info, light-dark(#2b5fd9, #7aa5ff));
  --_warning: var(--notify-warning, light-dark(#96600a, #f0b849));
  --_error: var(--notify-error, light-dark(#c22f3d, #ff8087));
  --_off: light-dark(#8a91a0, #7d8492);
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
:focus-visible { outline: 2px solid var(--_info); outline-offset: 2px; }
[part=panel] {
  background: var(--_bg); color: var(--_text); border: 1px solid var(--_border); border-radius: var(--notify-radius, 12px);
  padding: 6px 20px 16px; overflow-wrap: anywhere;
}
table { width: 100%; border-collapse: collapse; }
th { text-align: start; font-weight: 500; padding: 9px 0; }
td, thead th + th { text-align: center; padding: 9px 6px; min-width: 78px; }
td[colspan] { padding-inline: 0; text-align: start; }
thead th { color: var(--_muted); font-size: 13px; vertical-align: bottom; }
thead label { display: inline-flex; flex-direction: column; align-items: center; gap: 6px; cursor: pointer; }
tbody tr { border-top: 1px solid var(--_border); }
[part=category] { font-weight: 650; padding-top: 18px; }
[part=hint] { display: block; color: var(--_muted); font-weight: 400; font-size: 13px; }
[part=always] { color: var(--_muted); font-size: 13px; }
[part=none] { color: var(--_muted); }
[part=consent] label { display: flex; gap: 12px; align-items: center; cursor: pointer; }
[part~=switch] {
  appearance: none; flex: none; position: relative; width: 36px; height: 21px; margin: 0; border-radius: 11px; cursor: pointer;
  vertical-align: middle; background: var(--_off); transition: background .15s;
}
[part~=switch]::before {
  content: ""; position: absolute; inset-block-start: 3px; inset-inline-start: 3px; width: 15px; height: 15px;
  border-radius: 50%; background: #fff; transition: inset-inline-start .15s;
}
[part~=switch]:checked { background: var(--_info); }
[part~=switch]:checked::before { inset-inline-start: 18px; background: light-dark(#fff, #14161a); }
[part~=switch]:disabled { opacity: .45; cursor: default; }
button { font: inherit; font-weight: 600; color: var(--_info); background: none; border: 0; padding: 3px 8px; border-radius: 7px; cursor: pointer; }
button:hover { background: var(--_border); }
[part=notice] {
  display: flex; flex-wrap: wrap; align-items: center; gap: 4px 8px; margin: 10px 0; padding: 8px 12px; border-radius: 8px;
  border: 1px solid var(--_border); border-inline-start: 3px solid var(--_warning);
}
tbody [part=notice] { margin: 4px 0; font-weight: 400; }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; }
[part=quiet] { border-top: 1px solid var(--_border); margin-top: 14px; padding-top: 14px; animation: settle .6s; } /* no double clicks */
@keyframes settle { from, to { pointer-events: none; } }
legend { padding: 0; font-weight: 650; float: inline-start; width: 100%; }
legend + * { clear: both; }
[part=rule] { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; padding: 10px 0; border-bottom: 1px solid var(--_border); }
[part=rule] label, [part=zone] label { display: inline-flex; gap: 7px; align-items: center; color: var(--_muted); }
input[type=time], select {
  font: inherit; color: var(--_text); background: var(--_bg); border: 1px solid var(--_off); border-radius: 7px; padding: 4px 7px;
  max-width: 100%; min-width: 0;
}
[part=remove] { margin-inline-start: auto; }
[part=days] { display: flex; flex-wrap: wrap; gap: 3px; }
[part=day] { min-width: 38px; padding: 3px 5px; border: 1px solid var(--_border); color: var(--_muted); font-weight: 500; }
[part=day][aria-pressed=true] { background: var(--_info); border-color: var(--_info); color: light-dark(#fff, #14161a); }
[part=zone] { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; justify-content: space-between; padding-top: 12px; }
[part=note] { padding: 40px 12px; text-align: center; color: var(--_muted); }
[part=status] { min-height: 1.45em; margin-top: 10px; color: var(--_muted); font-size: 13px; }
[part=alert] { color: var(--_error); }
@container (max-width: 559.98px) {
  [part=panel] { padding-inline: 14px; }
  table, thead, tbody, tr, th, td { display: block; width: 100%; }
  thead th:first-child { color: var(--_text); font-weight: 650; padding-top: 18px; }
  thead th::before { content: attr(data-all); }
  thead span { display: none; }
  td, thead th + th { display: flex; min-width: 0; padding: 5px 0; text-align: start; }
  thead label { flex: 1; flex-direction: row; justify-content: space-between; align-items: center; }
  thead tr { padding: 6px 0; }
  tbody tr { padding: 4px 0 8px; }
  th { padding-bottom: 2px; }
  td::before { content: attr(data-channel); flex: 1; color: var(--_muted); }
  td:has([part=none]), [part=category]:empty { display: none; }
  td[colspan]::before { content: none; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
@media (forced-colors: active) {
  [part~=switch], [part~=switch]::before { forced-color-adjust: none; border: 1px solid CanvasText; background: Canvas; }
  [part~=switch]:checked { background: Highlight; }
  [part~=switch]::before { background: CanvasText; }
  [part=day][aria-pressed=true] { forced-color-adjust: none; background: Highlight; color: HighlightText; }
}
`;

export class NotifyPreferences extends Base {
  auth = this.auth;
  texts = this.texts ?? {};
  #stored = null; // what the server has said last
  #pending = []; // changes that it has not confirmed: {patch, act}
  #saves = Promise.resolve(); // one request after the other
  #nodes = null;
  #shape = ""; // of the rows that are drawn
  #switches = []; // functions that bring a row up to date
  #error = "";

  connectedCallback() {
    if (!this.#nodes) {
      const root = this.attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(CSS);
      root.adoptedStyleSheets = [sheet];
      const n = (this.#nodes = {});
      n.says = make("span");
      n.retry = make("button", "retry", { type: "button" });
      n.retry.addEventListener("click", () => this.load());
      n.note = make("div", "note", {}, n.says, n.retry);
      n.body = make("div", "body");
      n.alert = make("div", "alert", { role: "alert" });
      n.status = make("div", "status", { role: "status" });
      n.panel = make("div", "panel", { role: "group" }, n.note, n.body, n.alert, n.status);
      root.append(n.panel);
    }
    queueMicrotask(() => this.load()); // so that a script may set the properties first
  }

  /** Read the settings again, after what is being saved: an older answer must not replace a newer one. */
  load() {
    this.#error = "";
    this.#draw();
    return (this.#saves = this.#saves.then(async () => {
      try {
        this.#stored = await this.#call("GET");
      } catch (error) {
        if (!this.#stored) this.#error = "error";
        console.warn(`notify: the preferences could not be loaded: ${error.message}`);
      }
      this.#draw();
    }));
  }

  #call(method, body) {
    const url = this.getAttribute("url") ?? new URL(".", import.meta.url);
    return request(url, method, "preferences", { auth: this.auth, body });
  }

  /** What is shown: what the server has, and on top of it what it has not confirmed. */
  get #shown() {
    const shown = structuredClone(this.#stored);
    for (const { act } of this.#pending) {
      try {
        act(shown);
      } catch {} // what it changes is gone
    }
    return shown;
  }

  /** Show a change at once, send it, and take it back if the server refuses it. */
  #save(patch, act) {
    const change = { patch, act };
    const { alert, status } = this.#nodes;
    if (!this.#pending.length) put(alert, "");
    this.#pending.push(change);
    put(status, this.#text("saving"));
    this.#draw();
    this.#saves = this.#saves.then(async () => {
      try {
        this.#stored = await this.#call("PATCH", patch);
        put(status, this.#pending.length > 1 ? this.#text("saving") : this.#text("saved"));
      } catch (error) {
        put(status, "");
        put(alert, error.status === 422 ? `${this.#text("failed")}: ${error.message}` : this.#text("failed"));
      }
      this.#pending = this.#pending.filter((other) => other !== change);
      this.#draw();
    });
  }

  #text(name, values = {}) {
    const attribute = name === "preferences" ? "label" : `label-${name}`;
    const found = this.getAttribute(attribute) ?? this.texts[name] ?? TEXTS[name];
    return found?.replace(/\{(\w+)\}/g, (all, key) => values[key] ?? all);
  }

  #name = (kind, name) => this.#text(`${kind}-${name}`) ?? words(name);

  get #language() {
    return this.closest("[lang]")?.lang || undefined;
  }

  #draw() {
    const n = this.#nodes;
    const isLoading = !this.#stored;
    n.panel.setAttribute("aria-label", this.#text("preferences"));
    n.panel.setAttribute("aria-busy", isLoading && !this.#error);
    n.note.hidden = !isLoading;
    n.body.hidden = isLoading;
    put(n.says, this.#text(this.#error || "loading"));
    put(n.retry, this.#text("retry"));
    n.retry.hidden = !this.#error;
    if (isLoading) return;
    const shown = this.#shown;
    const rows = Object.entries(shown.effective).map(([type, each]) => [type, Object.keys(each), shown.types[type]]);
    const rules = shown.quiet_hours.rules.map(({ channels, all_day: allDay }) => [channels, allDay]);
    const shape = JSON.stringify([rows, rules, shown.preferences.all, shown.preferences.categories]);
    if (shape !== this.#shape) {
      this.#shape = shape;
      this.#build(shown);
    }
    for (const update of this.#switches) update(shown);
  }

  /** Make the rows. The focus stays where it was, if that is still there. */
  #build(shown) {
    const focused = this.shadowRoot.activeElement?.dataset.key;
    this.#switches = [];
    this.#nodes.body.replaceChildren(...this.#notices(shown), this.#table(shown), this.#quiet(shown));
    const all = [...this.#nodes.body.querySelectorAll("[data-key]")];
    const same = focused && all.find((node) => node.dataset.key === focused);
    if (focused) (same ?? this.#nodes.body.querySelector("input, button")).focus();
  }

  /** A switch: `read(shown)` returns whether it is on, and `lock(shown)` whether it cannot be changed. */
  #switch(key, label, read, change, lock = () => false) {
    const input = make("input", "switch", { type: "checkbox", role: "switch" });
    input.dataset.key = key;
    if (label) input.setAttribute("aria-label", label);
    input.addEventListener("change", () => change(input.checked));
    this.#switches.push((shown) => {
      input.checked = read(shown);
      input.disabled = lock(shown);
    });
    return input;
  }

  #button(part, key, label, act) {
    const button = make("button", part, { type: "button", textContent: label });
    button.dataset.key = key;
    button.addEventListener("click", act);
    return button;
  }

  #notices({ preferences }) {
    if (preferences.all !== false) return [];
    const act = (shown) => {
      delete shown.preferences.all;
      forEach(shown, (each) => each.rule === "all" && (each.on = true));
    };
    const button = this.#button("on", "all", this.#text("all-on"), () => this.#save({ all: null }, act));
    return [make("div", "notice", {}, make("span", "", { textContent: this.#text("all-off") }), button)];
  }

  #table(shown) {
    const types = Object.keys(shown.effective);
    const channels = [...new Set(types.flatMap((type) => Object.keys(shown.effective[type])))];
    const categories = [...new Set(types.map((type) => shown.types[type].category))];
    const head = channels.map((channel) => make("th", "", { scope: "col" }, this.#column(channel)));
    const title = make("span", "", { textContent: this.#text("type") });
    const first = make("th", "", { scope: "col", "data-all": this.#text("all") }, title);
    const table = make("table", "table", {}, make("thead", "", {}, make("tr", "", {}, first, ...head)));
    for (const category of categories) {
      const members = types.filter((type) => shown.types[type].category === category);
      const body = make("tbody");
      if (categories.length > 1) {
        const title = { scope: "rowgroup", colSpan: channels.length + 1, textContent: this.#name("category", category) };
        body.append(make("tr", "group", {}, make("th", "category", title)));
      }
      const whole = (part, ...content) =>
        body.append(make("tr", "", {}, make("td", part, { colSpan: channels.length + 1 }, ...content)));
      const off = shown.preferences.categories?.[category] ?? {};
      const unsubscribed = Object.keys(off).filter((channel) => off[channel] === false);
      for (const channel of unsubscribed) whole("unsubscribed", this.#unsubscribed(category, channel));
      for (const name of new Set(members.map((type) => shown.types[type].opt_in).filter(Boolean)))
        whole("consent", this.#consent(name));
      for (const type of members) body.append(this.#row(shown, type, channels));
      table.append(body);
    }
    return table;
  }

  /** A channel as a whole. Off: for all types, those included that the user has switched on one by one. */
  #column(channel) {
    const name = this.#name("channel", channel);
    const ofUser = ({ preferences }) => ["types", "categories"].map((kind) => [kind, preferences[kind] ?? {}]);
    const change = (on) => {
      const patch = { channels: { [channel]: on ? null : false } };
      if (!on) {
        for (const [kind, groups] of ofUser(this.#shown)) {
          const chosen = Object.keys(groups).filter((key) => groups[key][channel]);
          if (chosen.length) patch[kind] = Object.fromEntries(chosen.map((key) => [key, { [channel]: null }]));
        }
      }
      this.#save(patch, (shown) => {
        (shown.preferences.channels ??= {})[channel] = on;
        forEach(shown, (each, _, other) => {
          if (other === channel && (!on || each.rule === `channels/${channel}`)) each.on = on;
        });
      });
    };
    const read = ({ preferences }) => preferences.channels?.[channel] !== false;
    return make("label", "channel", {}, name, this.#switch(`channel ${channel}`, "", read, change));
  }

  #consent(name) {
    const change = (on) => this.#save({ opt_in: { [name]: on } }, (shown) => (shown.opt_in[name].on = on));
    const lock = ({ opt_in: consents }) => FIXED.test(consents[name].layer);
    const input = this.#switch(`consent ${name}`, "", ({ opt_in: consents }) => consents[name].on, change, lock);
    const text = this.#text(`consent-${name}`) ?? this.#text("consent", { name: words(name) });
    return make("label", "", {}, input, text);
  }

  #unsubscribed(category, channel) {
    const names = { category: this.#name("category", category), channel: this.#name("channel", channel) };
    if (channel === "*") names.channel = this.#text("all-channels");
    const act = (shown) => {
      delete shown.preferences.categories[category][channel];
      forEach(shown, (each) => each.rule === `categories/${category}/${channel}` && (each.on = true));
    };
    const patch = { categories: { [category]: { [channel]: null } } };
    const key = `unsubscribed ${category} ${channel}`;
    const button = this.#button("resubscribe", key, this.#text("resubscribe"), () => this.#save(patch, act));
    return make("div", "notice", {}, make("span", "", { textContent: this.#text("unsubscribed", names) }), button);
  }

  #row(shown, type, channels) {
    const name = this.#name("type", type);
    const { opt_in: consent } = shown.types[type];
    const lacks = ({ opt_in: consents }) => !!consent && !consents[consent].on;
    const head = make("th", "type", { scope: "row" }, make("span", "", { textContent: name }));
    if (consent) {
      const hint = make("span", "hint", { textContent: this.#text("needs-consent") });
      this.#switches.push((now) => (hint.hidden = !lacks(now)));
      head.append(hint);
    }
    const cells = channels.map((channel) => {
      const each = shown.effective[type][channel];
      const cell = make("td", "", { "data-channel": this.#name("channel", channel) });
      if (!each) cell.append(make("span", "none", { "aria-hidden": "true", textContent: "\u2013" }));
      else if (each.layer === "mandatory") cell.append(make("span", "always", { textContent: this.#text("always") }));
      else {
        const change = (on) =>
          this.#save({ types: { [type]: { [channel]: on } } }, (now) => {
            const rule = `types/${type}/${channel}`;
            now.effective[type][channel] = { on, layer: "user", rule };
            ((now.preferences.types ??= {})[type] ??= {})[channel] = on;
          });
        const read = (now) => now.effective[type][channel].on && !lacks(now);
        const lock = (now) => lacks(now) || FIXED.test(now.effective[type][channel].layer);
        const label = `${name}: ${this.#name("channel", channel)}`;
        cell.append(this.#switch(`type ${type} ${channel}`, label, read, change, lock));
      }
      return cell;
    });
    return make("tr", "row", {}, head, ...cells);
  }

  #quiet(shown) {
    const { rules, layer } = shown.quiet_hours;
    const hint = make("span", "hint", { textContent: this.#text("quiet-hint") });
    const add = this.#button("add", "add", this.#text("add"), () =>
      this.#saveRules([...this.#shown.quiet_hours.rules, { start: "22:00", end: "07:00" }]),
    );
    const legend = make("legend", "", { textContent: this.#text("quiet") });
    const zone = make("label", "", {}, this.#text("tz"), this.#zone());
    const rows = rules.map((_, number) => this.#rule(shown, number));
    const fields = make("fieldset", "quiet", {}, legend, hint, ...rows, make("div", "zone", {}, zone, add), this.#zoneNotice());
    fields.disabled = layer === "override";
    return fields;
  }

  #saveRules(rules) {
    const tz = this.#shown.preferences.tz ?? OWN; // otherwise, the hours are those of the server
    this.#save({ quiet_hours: rules, ...(tz && { tz }) }, (shown) => {
      shown.quiet_hours = { rules, layer: "user" };
      shown.preferences.tz = shown.tz = tz;
    });
  }

  #saveZone(tz) {
    this.#save({ tz }, (shown) => (shown.preferences.tz = shown.tz = tz));
  }

  #zoneNotice() {
    const zone = OWN?.replaceAll("_", " ");
    const text = make("span");
    const use = this.#button("on", "use", this.#text("tz-use", { zone }), () => {
      this.#saveZone(OWN);
      this.#nodes.body.querySelector("select").focus(); // the button is hidden
    });
    const notice = make("div", "notice", {}, text, use);
    this.#switches.push(({ tz, preferences, quiet_hours: { rules } }) => {
      use.hidden = !preferences.tz && !rules.length;
      notice.hidden = !OWN || isHere(tz);
      put(text, this.#text(use.hidden ? "tz-new" : "tz-other", { zone }));
    });
    return notice;
  }

  #rule(shown, number) {
    const of = (now) => now.quiet_hours.rules[number];
    const alter = (changes) => {
      const rules = structuredClone(this.#shown.quiet_hours.rules);
      rules[number] = { ...rules[number], ...changes };
      for (const name of Object.keys(changes)) if (changes[name] === undefined) delete rules[number][name];
      const { start, end } = rules[number];
      if (!rules[number].all_day && start === end) return put(this.#nodes.alert, this.#text("same"));
      this.#saveRules(rules);
    };
    const time = (name, label) => {
      const input = make("input", "time", { type: "time" });
      input.dataset.key = `rule ${number} ${name}`;
      let timer;
      const commit = () => {
        clearTimeout(timer);
        const isNew = input.isConnected && input.value && input.value !== of(this.#shown)[name];
        if (isNew) alter({ [name]: input.value });
      };
      // Browsers emit `change` for each digit that is typed.
      input.addEventListener("change", () => (clearTimeout(timer), (timer = setTimeout(commit, TYPING))));
      input.addEventListener("blur", () => {
        commit();
        this.#draw();
      });
      this.#switches.push((now) => this.shadowRoot.activeElement !== input && (input.value = of(now)[name] ?? ""));
      return make("label", "", {}, this.#text(label), input);
    };
    const allDay = this.#switch(
      `rule ${number} all-day`, "", (now) => !!of(now).all_day,
      (on) => alter(on ? { all_day: true, start: undefined, end: undefined } : { all_day: undefined, start: "22:00", end: "07:00" }),
    ); // prettier-ignore
    const { all_day: isAllDay, channels } = of(shown);
    const hours = isAllDay ? [] : [time("start", "from"), time("end", "to")];
    const row = make("div", "rule", { role: "group" }, ...hours);
    row.setAttribute("aria-label", `${this.#text("quiet")} ${number + 1}`);
    row.append(make("label", "", {}, allDay, this.#text("all-day")), this.#days(number, of, alter));
    if (channels) {
      const names = channels.map((channel) => this.#name("channel", channel)).join(", ");
      row.append(make("span", "hint", { textContent: this.#text("only", { channels: names }) }));
    }
    row.append(
      this.#button("remove", `rule ${number} remove`, this.#text("remove"), () =>
        this.#saveRules(this.#shown.quiet_hours.rules.filter((_, other) => other !== number)),
      ),
    );
    return row;
  }

  #days(number, of, alter) {
    const format = new Intl.DateTimeFormat(this.#language, { weekday: "short", timeZone: "UTC" });
    const long = new Intl.DateTimeFormat(this.#language, { weekday: "long", timeZone: "UTC" });
    const group = make("div", "days", { role: "group" });
    group.setAttribute("aria-label", this.#text("days"));
    DAYS.forEach((day, index) => {
      const date = Date.UTC(2024, 0, index + 1); // a Monday
      const button = this.#button("day", `rule ${number} ${day}`, format.format(date), () => {
        const days = of(this.#shown).days ?? DAYS;
        const next = DAYS.filter((other) => (other === day) !== days.includes(other));
        if (next.length) alter({ days: next });
      });
      button.setAttribute("aria-label", long.format(date));
      this.#switches.push((now) => button.setAttribute("aria-pressed", (of(now).days ?? DAYS).includes(day)));
      group.append(button);
    });
    return group;
  }

  #zone() {
    const select = make("select", "tz");
    select.dataset.key = "tz";
    const known = new Set(["UTC", ...(Intl.supportedValuesOf?.("timeZone") ?? [])]);
    select.addEventListener("change", () => this.#saveZone(select.value));
    const option = (name) => make("option", "", { value: name, textContent: name.replaceAll("_", " ") });
    select.append(...[...known].sort().map(option));
    this.#switches.push(({ tz }) => {
      if (!known.has(tz)) select.append(option(tz));
      known.add(tz);
      select.value = tz;
    });
    return select;
  }
}

/** Whether a zone's clock shows this device's time: zones have several names. */
function isHere(timeZone) {
  const now = new Date();
  try {
    return now.toLocaleString("en", { timeZone }) === now.toLocaleString("en");
  } catch {}
}

/** Call `act(effective, type, channel)` for what the user may change. */
function forEach(shown, act) {
  for (const [type, channels] of Object.entries(shown.effective)) {
    for (const [channel, each] of Object.entries(channels)) if (!FIXED.test(each.layer)) act(each, type, channel);
  }
}

if (globalThis.customElements && !customElements.get("notify-preferences"))
  customElements.define("notify-preferences", NotifyPreferences);
