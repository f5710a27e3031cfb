// The page of `notify serve --demo`. It is a client like any other, six times: one for each user at each instance.
import { connect } from "./client.js";
import "./components.js";
import "./bell.js";
import { Checker, compare } from "./checker.js";

const POLL = 500; // ms between two reports to the server of the demo
const GRACE = 3000; // ms for which all devices must be connected before everything is demanded of them
const ROWS = 8; // of a feed
const SPAN = 40; // seconds of the plots
const LATE = 1000; // ms from which a latency is marked
const LABELS = { "hide-after": 0, "label-connected": "Live", "label-disconnected": "Cut off" }; // of the small <notify-status>
const HEAD = 18; // px above the plots, for the labels of faults and of the highest line

const $ = (id) => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const now = () => performance.timeOrigin + performance.now(); // the clock of the page's host, as that of the pushes
const thousands = new Intl.NumberFormat("en");
const ms = (value) => (value < 9.95 ? `${value.toFixed(1)} ms` : value < 999.5 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);
const page = crypto.randomUUID();

async function post(name, body) {
  const headers = { "Content-Type": "application/json", "X-Notify-Demo": "1" };
  const response = await fetch(`api/${name}`, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw Error(answer.error);
  return answer;
}

// -- devices ------------------------------------------------------------------------------------------------------------

const facts = await post("open", { page });
const people = new Map(facts.users.map((user, index) => [user.id, { ...user, index }]));
const devices = [];
const instances = new Map();
let rows = [], gaps = [], since = facts.since, pushed = 0, connectedSince = 0;

const avatar = (user) => make("span", { className: `who u${user.index}`, textContent: user.name[0] });

for (const { name, url } of facts.instances) {
  const card = $("instance").content.cloneNode(true).firstElementChild;
  card.classList.add(name.toLowerCase());
  card.querySelector(".badge").textContent = name;
  card.querySelector("h2").textContent = `Instance ${name}`;
  const [kill, cut] = [card.querySelector(".kill"), card.querySelector(".cut")];
  const instance = { name, card, kill, cut, feed: card.querySelector(".feed"), waiting: [], state: {} };
  instances.set(name, instance);
  kill.onclick = () => act(kill, instance.state.running ? "kill" : "start", instance);
  cut.onclick = () => act(cut, instance.state.cut ? "mend" : "cut", instance);
  $("instances").append(card);
  for (const user of people.values()) {
    const count = make("small", { textContent: "0" });
    const status = document.createElement("notify-status");
    for (const [attribute, value] of Object.entries(LABELS)) status.setAttribute(attribute, value);
    card.querySelector(".devices").append(make("li", {}, avatar(user), make("span", {}, make("strong", { textContent: user.name }), count), status));
    const client = connect(url, {
      auth: () => ({ Authorization: `Bearer ${user.token}` }),
      transports: ["fetch"],
      share: false,
      lastId: user.start,
    });
    status.client = client;
    const device = { name: `${name}/${user.id}`, user, instance, client, count, checker: new Checker(), liveSince: Infinity };
    devices.push(device);
    client.on("status", (status) => (device.liveSince = status === "connected" ? now() : Infinity));
    client.on("*", (event) => instance.waiting.push({ device, event, isLive: event.payload.at > device.liveSince }) === 1 && soon(instance));
    client.on("gap", (gap) => gaps.push([device.name, gap.reason, gap.from, gap.to]));
  }
}

// -- one inbox, two browsers ---------------------------------------------------------------------------------------------

for (const { name, url } of facts.instances) {
  const { reader } = facts;
  const client = connect(url, { auth: () => ({ Authorization: `Bearer ${reader.token}` }), transports: ["fetch"], share: false });
  const bell = (...names) => {
    const element = Object.assign(document.createElement("notify-bell"), { client });
    for (const attribute of names) element.setAttribute(attribute, attribute === "read" ? "click" : "");
    return element;
  };
  const status = Object.assign(document.createElement("notify-status"), { client });
  status.setAttribute("hide-after", 0);
  const bar = make("div", { className: "bar" }, make("i", {}), make("b", { textContent: `${reader.name} at instance ${name}` }), status, bell("read"));
  $("browsers").append(make("div", { className: `browser ${name.toLowerCase()}` }, bar, bell("inline", "read")));
}
$("item").onsubmit = (event) => {
  event.preventDefault();
  post("item", { title: $("subject").value });
};
let replaced = 0;
$("replace").onclick = () => {
  const done = (replaced = (replaced % 5) + 1) * 20;
  post("item", { title: "Report", message: `${done} % done`, type: done === 100 ? "success" : "info", group: "report" });
};

/** Paint what has arrived with the next frame; a hidden page has no frames. */
function soon(instance) {
  if (document.hidden) setTimeout(() => paint(instance));
  else requestAnimationFrame(() => paint(instance));
}

function paint(instance) {
  const arrived = instance.waiting.splice(0);
  for (const { device, event } of arrived) {
    rows.push([device.name, event.id, event.payload.n]);
    device.checker.saw(event.id);
    device.count.textContent = thousands.format(device.checker.shown.size);
  }
  for (const each of arrived.slice(-ROWS)) show(instance, each);
  setTimeout(() => {
    const painted = now();
    for (const { event, isLive } of arrived) {
      const latency = Math.max(0.1, painted - event.payload.at);
      latencies.push({ at: painted, latency, isLive, name: instance.name });
      bucket(shownBuckets, painted);
    }
    for (const [node, at] of instance.feed.unmeasured ?? []) {
      node.textContent = ms(painted - at);
      node.classList.toggle("late", painted - at > LATE);
    }
    instance.feed.unmeasured = [];
  });
}

function show(instance, { device, event }) {
  const { payload, group } = event;
  const what = make("span", { className: "what" });
  const generic = event.type === "generic";
  what.append(generic ? payload.title : payload.text, make("em", { textContent: `  ${(generic && payload.message) || event.type}` }));
  const time = make("time", {});
  const item = make("li", { className: "new" }, avatar(device.user), what);
  if (typeof payload.progress === "number" && payload.progress < 1) item.append(make("progress", { value: payload.progress }));
  item.append(time);
  (instance.feed.unmeasured ??= []).push([time, payload.at]);
  item.dataset.group = group ? `${event.user} ${group}` : "";
  const same = group && [...instance.feed.children].find((each) => each.dataset.group === item.dataset.group);
  if (same) {
    item.className = "";
    return same.replaceWith(item);
  }
  instance.feed.prepend(item);
  while (instance.feed.children.length > ROWS) instance.feed.lastElementChild.remove();
}

// -- what the visitor does ------------------------------------------------------------------------------------------------

const NAMES = { kill: "killed", start: "started", cut: "cut", mend: "mended" };

async function act(button, name, instance) {
  button.disabled = true;
  try {
    await post(name, { name: instance.name });
    marks.push({ at: now(), text: `${instance.name} ${NAMES[name]}`, isCure: name === "start" || name === "mend" });
    await poll();
  } finally {
    button.disabled = false;
  }
}

for (const user of people.values()) $("users").append(new Option(user.name, user.id));
$("users").append(new Option("Everyone", "*"));
for (const { name } of facts.instances) $("vias").append(new Option(`Instance ${name}`, name));
const isServing = (name) => instances.get(name).state.serving;
const went = (text = "") => ($("went").textContent = text);
$("form").onsubmit = async (event) => {
  event.preventDefault();
  const order = Object.fromEntries(new FormData(event.target));
  went([...instances.keys()].some(isServing) ? "" : "No instance is running: the push waits for one.");
  const others = (await post("push", order)).through.filter((name) => name !== order.via);
  went(others.length ? `Instance ${order.via} did not answer: pushed through ${others.join(" and ")}.` : "");
};
$("job").onclick = () => {
  const { user, via } = $("form").elements;
  const other = [...instances.keys()].find(isServing);
  const instead = other ? `pushing through ${other}` : "the export waits";
  went(isServing(via.value) ? "" : `Instance ${via.value} is down: ${instead}.`);
  post("job", { user: user.value === "*" ? facts.users[0].id : user.value, via: via.value });
};
$("rates").onchange = (event) => post("rate", { rate: event.target.value });

// -- reports and verdict --------------------------------------------------------------------------------------------------

// One report at a time: two could overtake each other, and both would be told of the same pushes.
let reports = Promise.resolve();
const poll = () => (reports = reports.then(report, report));

async function report() {
  const isConnected = devices.every(({ client }) => client.status === "connected");
  connectedSince = isConnected ? connectedSince || now() : 0;
  const calm = isConnected && now() - connectedSince > GRACE;
  const sent = { rows, gaps };
  [rows, gaps] = [[], []];
  let state;
  try {
    state = await post("poll", { page, since, calm, shown: sent.rows, gaps: sent.gaps });
  } catch {
    [rows, gaps] = [[...sent.rows, ...rows], [...sent.gaps, ...gaps]];
    $("gone").hidden = false;
    return;
  }
  if (state.reload) return location.reload();
  $("gone").hidden = true;
  if (state.since > since) {
    since = state.since;
    for (const [, user, id, at] of state.pushed) {
      if (compare(id, people.get(user).start) <= 0) continue; // before the page was opened
      pushed++;
      bucket(pushedBuckets, at);
      for (const device of devices) if (device.user.id === user) device.checker.pushed(id);
    }
  }
  for (const each of state.instances) draw(each);
  for (const radio of $("rates").querySelectorAll("input")) radio.checked = Number(radio.value) === state.rate;
  judge(state);
}

function draw(state) {
  const instance = instances.get(state.name);
  const was = instance.state;
  instance.state = state;
  const { card, kill, cut } = instance;
  const isUp = state.serving && !state.cut;
  card.classList.toggle("is-down", !isUp);
  const lines = card.querySelector(".facts");
  lines.textContent = state.running ? `process ${state.pid}` : "";
  if (!state.running) lines.append(make("b", { textContent: "killed by SIGKILL" }));
  else if (!state.serving) lines.append(" · starting");
  else if (state.cut) lines.append(" · ", make("b", { textContent: "wire cut" }));
  else if (state.starts > 1) lines.append(` · start ${state.starts}`);
  kill.textContent = state.running ? "kill -9" : "Start again";
  kill.className = `kill ${state.running ? "danger" : "is-cure"}`;
  cut.textContent = state.cut ? "Mend wire" : "Cut wire";
  cut.className = `cut ${state.cut ? "is-cure" : ""}`;
  // A browser says so by itself when its network is back; this wire is not the browser's. Not before the port is open:
  // the clients would be refused, and back off.
  if (isUp && (was.cut || was.serving === false)) dispatchEvent(new Event("online"));
}

function judge({ verdict, waiting }) {
  const sum = (of) => devices.reduce((total, { checker }) => total + of(checker), 0);
  const counts = {
    pushed,
    shown: sum((checker) => checker.shown.size),
    waiting: sum((checker) => checker.due.size) + waiting * instances.size, // deliveries
    missed: Math.max(sum((checker) => checker.missed.size), verdict.missed),
    twice: sum((checker) => checker.twice),
    disorder: sum((checker) => checker.disorder),
  };
  for (const [name, count] of Object.entries(counts)) {
    const node = document.querySelector(`[data-count=${name}]`);
    node.textContent = thousands.format(count);
    node.parentElement.classList.toggle("is-bad", count > 0);
  }
  const isBroken = !verdict.ok || counts.missed + counts.twice + counts.disorder > 0;
  const behind = devices.filter(({ client }) => client.status !== "connected").length;
  const [state, headline] = isBroken
    ? ["broken", "Something is wrong"]
    : behind
      ? ["catching", `${behind} of ${devices.length} devices ${behind === 1 ? "is" : "are"} cut off`]
      : pushed
        ? ["ok", "Nothing missed, nothing twice, in order"]
        : ["waiting", "Nothing pushed yet"];
  $("verdict").dataset.state = state;
  const put = (id, text) => $(id).textContent !== text && ($(id).textContent = text);
  put("headline", headline);
  const why = verdict.violations[0] ?? "The checkers of the page and of the server disagree.";
  const lines = {
    broken: why,
    catching: "Nothing is lost: they resume from their last event.",
    waiting: "Send a notification or choose a rate of traffic: this page and the history checker of the server check it.",
    ok: "Checked by this page and by the server's history checker, all the time.",
  };
  put("subline", lines[state]);
}

// -- plots ------------------------------------------------------------------------------------------------------------

const pushedBuckets = new Map(), shownBuckets = new Map();
let latencies = [], marks = [];
const bucket = (buckets, at) => buckets.set(Math.floor(at / 1000), (buckets.get(Math.floor(at / 1000)) ?? 0) + 1);

function canvas(id) {
  const node = $(id);
  const { width, height } = node.getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  if (node.width !== Math.round(width * scale)) [node.width, node.height] = [Math.round(width * scale), Math.round(height * scale)];
  const pen = node.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  const style = getComputedStyle(document.body);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  return { pen, width: width - 52, height: height - 20, colour, style };
}
const probe = document.body.appendChild(make("i", { hidden: true }));

function axis({ pen, width, height, colour }, lines) {
  pen.lineWidth = 1;
  for (const [y, label] of lines) {
    pen.strokeStyle = colour("line");
    pen.beginPath();
    pen.moveTo(0, Math.round(y) + 0.5);
    pen.lineTo(width, Math.round(y) + 0.5);
    pen.stroke();
    pen.fillStyle = colour("muted");
    pen.fillText(label, width + 7, y + 4);
  }
  pen.fillText(`${SPAN} s ago`, 0, height + 15);
  pen.textAlign = "right";
  pen.fillText("now", width, height + 15);
  pen.textAlign = "left";
}

function faults({ pen, width, height, colour }, x) {
  const ends = []; // where the labels of each line of text end
  pen.setLineDash([3, 3]);
  for (const { at, isCure } of marks) {
    pen.strokeStyle = colour(isCure ? "good" : "bad");
    line(pen, [[x(at), 0], [x(at), height]]);
    pen.stroke();
  }
  pen.setLineDash([]);
  for (const { at, text, isCure } of marks) {
    const size = pen.measureText(text).width;
    const left = Math.min(x(at) + 4, width - size);
    let row = 0;
    while (ends[row] > left) row++;
    ends[row] = left + size + 6;
    pen.fillStyle = colour("card"); // no line of another fault runs through a label
    pen.fillRect(left - 2, 14 * row, size + 4, 13);
    pen.fillStyle = colour(isCure ? "good" : "bad");
    pen.fillText(text, left, 10 + 14 * row);
  }
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
}

function plotRate(at) {
  const frame = canvas("rate");
  const { pen, width, height, colour } = frame;
  const last = Math.floor(at / 1000) - 1; // the present second is not over
  const x = (moment) => width - ((at - moment) / 1000 / SPAN) * width;
  const of = (buckets) => Array.from({ length: SPAN + 1 }, (_, index) => [last - SPAN + index, buckets.get(last - SPAN + index) ?? 0]);
  const [pushed, shown] = [of(pushedBuckets), of(shownBuckets)];
  const most = Math.max(8, ...pushed.map(([, n]) => n), ...shown.map(([, n]) => n)) * 1.25;
  const step = [2, 5, 10, 20, 50, 100, 200, 500, 1000].find((each) => most / each <= 4) ?? 2000;
  const y = (count) => height - (count / most) * (height - HEAD);
  axis(frame, Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => [y(index * step), String(index * step)]));
  const place = ([second, count]) => [x((second + 1) * 1000), y(count)];
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, width, height + 1);
  pen.clip();
  pen.fillStyle = pen.strokeStyle = colour("accent");
  const points = shown.map(place);
  line(pen, [[points[0][0], height], ...points, [points.at(-1)[0], height]]);
  pen.globalAlpha = 0.16;
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = 1.8;
  pen.lineJoin = "round";
  line(pen, points);
  pen.stroke();
  pen.lineWidth = 1.3;
  pen.strokeStyle = colour("muted");
  line(pen, pushed.map(place));
  pen.stroke();
  faults(frame, x);
  pen.restore();
}

function plotLatency(at) {
  const frame = canvas("latency");
  const { pen, width, height, colour } = frame;
  const x = (moment) => width - ((at - moment) / 1000 / SPAN) * width;
  const y = (latency) => height - (Math.log10(Math.min(Math.max(latency, 1), 60000)) / Math.log10(60000)) * (height - HEAD);
  axis(frame, [[y(1), "1 ms"], [y(10), "10 ms"], [y(100), "100 ms"], [y(1000), "1 s"], [y(10000), "10 s"]]);
  for (const { at: moment, latency, isLive, name } of latencies) {
    pen.globalAlpha = isLive ? 0.6 : 0.25;
    pen.fillStyle = colours[name] ??= colour(name.toLowerCase());
    pen.beginPath();
    pen.arc(x(moment), y(latency), 2.2, 0, 7);
    pen.fill();
  }
  pen.globalAlpha = 1;
  faults(frame, x);
  const sorted = latencies.filter(({ isLive }) => isLive).map(({ latency }) => latency).sort((a, b) => a - b);
  const at_ = (part) => (sorted.length ? ms(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]) : "–");
  $("p50").textContent = at_(0.5);
  $("p99").textContent = at_(0.99);
}
let colours = {};
matchMedia("(prefers-color-scheme: dark)").onchange = () => (colours = {});

function plot() {
  const at = now();
  const oldest = at - SPAN * 1000;
  if (latencies.length && latencies[0].at < oldest - 5000) latencies = latencies.filter((each) => each.at >= oldest);
  marks = marks.filter((each) => each.at >= oldest);
  for (const buckets of [pushedBuckets, shownBuckets])
    for (const second of buckets.keys()) if (second < oldest / 1000 - 5) buckets.delete(second);
  plotRate(at);
  plotLatency(at);
}

const every = (period, work) => {
  const next = async () => {
    await Promise.resolve(work()).catch(reportError);
    setTimeout(next, period);
  };
  next();
};
every(POLL, poll);
every(250, plot);
