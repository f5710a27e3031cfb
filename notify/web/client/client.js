// See client.d.ts and docs/internals/browser.md.
const PROTOCOL = 'notify.v1';
const FRAMES = ['message', 'notify.sync', 'notify.gap', 'notify.end', 'notify.position', 'notify.counts'];
const TICK = 2000;
const AWAY = 30000;

const guard = (fn, ...args) => {
  try {
    return fn(...args);
  } catch (error) {
    reportError(error);
  }
};

/** Parse an event stream. */
export function parser(frame, retry) {
  let rest = '', name, id, data;
  return (text) => {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === 'data') data = data === undefined ? value : `${data}\n${value}`;
      else if (field === 'event') name = value;
      else if (field === 'id' && !value.includes('\0')) id = value;
      else if (field === 'retry' && /^\d+$/.test(value)) retry(+value);
      if (line) continue;
      if (data !== undefined) frame(name || 'message', id, data);
      name = id = data = undefined;
    }
  };
}

class Attempt extends AbortController {
  url(path, query) {
    const url = new URL(this.options.url);
    url.pathname = url.pathname.replace(/\/?$/, `/${path}`);
    for (const name in query) if (query[name] !== undefined) url.searchParams.set(name, query[name]);
    return url.href;
  }

  async get(path, query, init) {
    const { signal, headers } = this;
    const credentials = this.options.withCredentials ? 'include' : 'same-origin';
    const response = await fetch(this.url(path, query), { signal, headers, credentials, cache: 'no-store', ...init });
    this.status = response.status;
    if (response.ok && this.status !== 204) return response;
    this.wait = 1000 * response.headers.get('Retry-After') || undefined;
    throw Error(this.status);
  }

  async login(bare) {
    if (!this.options.auth) return;
    const given = await this.ask();
    this.ticket = typeof given === 'string' ? given : given.ticket;
    if (this.ticket) return;
    this.headers = given;
    if (!bare) return;
    const headers = { ...given, 'Content-Type': 'application/json' };
    const response = await this.get('ticket', {}, { method: 'POST', body: '{}', headers });
    this.ticket = (await response.json()).ticket;
  }

  async page(after, wait = 0) {
    await this.login();
    return (await this.get('events', { after, wait, ticket: this.ticket })).json();
  }
}

const transports = {
  async fetch(c) {
    await c.login();
    const response = await c.get('stream', { last_event_id: c.stream.position, ticket: c.ticket });
    if (!/^text\/event-stream/.test(response.headers.get('Content-Type'))) throw Error('not an event stream');
    c.alive(5000);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const feed = parser(c.frame, (ms) => (c.stream.retry = ms));
    for (let part; !(part = await reader.read()).done; ) {
      feed(decoder.decode(part.value, { stream: true }));
      c.alive();
    }
  },

  async eventsource(c) {
    await c.login(true);
    const source = new EventSource(c.url('stream', { last_event_id: c.stream.position, ticket: c.ticket }), c.options);
    c.signal.onabort = () => source.close();
    for (const name of FRAMES) {
      source.addEventListener(name, ({ lastEventId, data }) => {
        c.frame(name, lastEventId, data);
        c.alive(c.synced ? Infinity : undefined);
      });
    }
    await new Promise((done) => (source.onerror = done));
    source.close();
    if (!c.synced) await c.page(c.stream.position);
  },

  async poll(c) {
    const until = Date.now() + 600000;
    for (let wait = 0; Date.now() < until; ) {
      const began = Date.now();
      const { counts, end, events, gap, position, sync } = await c.page(c.stream.position, wait);
      c.alive();
      if (gap) c.frame('notify.gap', events[0] ? undefined : position, gap);
      events.forEach((event, i) => c.frame('message', events[i + 1] ? undefined : position, event));
      if (counts) c.frame('notify.counts', undefined, counts);
      if (end) return c.frame('notify.end', position, end);
      if (sync && !c.synced) c.frame('notify.sync', position, { position });
      else if (!events.length && Date.now() - began < 50 + 250 * wait) await c.sleep(1000 + 1000 * Math.random());
      wait = sync ? Math.min(25, 2 * c.stream.beat) : 0;
    }
    c.stream.at = -1;
  },

  async websocket(c) {
    await c.login(true);
    const protocols = c.ticket ? [PROTOCOL, `ticket.${c.ticket}`] : PROTOCOL;
    const url = c.url('ws', { last_event_id: c.stream.position }).replace(/^http/, 'ws');
    const socket = new WebSocket(url, protocols);
    c.signal.onabort = () => socket.close();
    socket.onmessage = ({ data: text }) => {
      const { event, id, data } = JSON.parse(text);
      c.frame(event, id, data);
      c.alive();
    };
    const { code } = await new Promise((done) => (socket.onclose = done));
    c.status = { 4001: 401, 4003: 403, 4013: 204 }[code];
    if (code === 4010) c.wait = 120000;
  },
};

function open(options, ask, tell) {
  const { transports: names, lastId, heartbeat = 15 } = options;
  let c, wake, status = 'connecting', opened, obeys, hurry, renewed, closed, fails = 0;
  const set = (next) => next === status || tell({ status: (status = next) });
  const sleep = (ms) => new Promise((done) => setTimeout((wake = done), ms));
  const frame = (name, id, data) => {
    if (c.signal.aborted) return;
    if (typeof data === 'string') data = guard(JSON.parse, data);
    if (!data) return;
    stream.position = id || stream.position;
    if (name === 'notify.end') {
      c.end = data;
      return c.abort();
    }
    if (name === 'notify.sync') {
      c.synced = true;
      renewed = fails = 0;
      stream.beat = data.heartbeat ?? stream.beat;
      stream.position = id = data.position;
    }
    tell({ name, id, data });
    if (c.synced) set('connected');
  };
  const alive = (ms = 2500 * stream.beat) => {
    const due = Date.now() + ms + 1000;
    clearTimeout(c.timer);
    const check = () => (Date.now() > due ? alive(1000 * stream.beat) : c.abort((c.silent = true)));
    if (ms < Infinity && !c.signal.aborted) c.timer = setTimeout(check, ms);
  };
  const decide = (name) => {
    const { end = {}, status: code, synced, silent } = c;
    const expired = code === 401 || end.reason === 'expired';
    if (code === 204 || end.reason === 'disconnected') return 'disconnected';
    if (code === 403) return 'forbidden';
    if (expired && (renewed || !(end.reason || options.auth))) return 'expired';
    if (end.reason) tell({ name: 'notify.end', data: end });
    if (silent && !synced) tell({ code: 'without data: is it buffered?' });
    const failed = !synced && !expired && !end.reason;
    renewed ||= expired;
    fails += failed;
    const other = code < 429 || name === 'eventsource' || name === 'websocket';
    if (stream.at < 0 || silent || (failed && other && fails % 3 === 0)) stream.at++;
    const wait = end.retry ?? c.wait;
    obeys = wait !== undefined;
    if (hurry) return 0;
    if (obeys) return wait;
    if (expired || (silent && stream.at % names.length)) return 0;
    return synced ? stream.retry : Math.min(30000, stream.retry * 2 ** (fails - 1)) * (0.5 + Math.random() / 2);
  };
  const run = async () => {
    while (!closed) {
      hurry = obeys = false;
      opened = Date.now();
      c = Object.assign(new Attempt(), { options, stream, alive, frame, sleep, ask: () => ask(renewed) });
      alive();
      const name = names[stream.at % names.length];
      const aborted = new Promise((done) => c.signal.addEventListener('abort', done));
      await Promise.race([transports[name](c).catch(() => {}), aborted]);
      clearTimeout(c.timer);
      c.abort();
      if (closed) return;
      if (status === 'connected') set('reconnecting');
      const next = decide(name);
      const { status: code } = c;
      if (typeof next === 'string') return tell({ code, ended: { reason: next }, id: stream.position });
      if (next) await sleep(next, tell({ code }));
    }
  };
  const stream = {
    beat: heartbeat,
    position: lastId,
    retry: 1000 + 2000 * Math.random(),
    at: 0,
    welcome() {
      const { position, beat } = stream;
      return { welcome: 1, position, status, data: c.synced && { position, heartbeat: beat } };
    },
    close() {
      closed = true;
      c.abort();
      wake?.();
    },
    kick(why) {
      if (why === 'away' ? Date.now() - opened < AWAY : why === 'online' && c.synced) return;
      hurry = why !== 'offline';
      c.abort();
      if (hurry && !obeys) wake?.();
    },
  };
  run();
  return stream;
}

function share({ key, options, ask, receive }, inWorker) {
  const { locks } = navigator;
  const me = crypto.randomUUID();
  const channel = new BroadcastChannel(key);
  const post = (message) => channel.postMessage(message);
  const say = (message) => post({ from: me, ...message });
  const tabs = new Set();
  let stream, term, release, leave, queue, answered, closed, missed = 0, last = Date.now();

  const lead = () =>
    closed ||
    new Promise((free) => {
      term = crypto.randomUUID();
      const tell = (message) => {
        post({ term, ...message });
        receive(message);
      };
      const askTab = (renew) =>
        new Promise((done, fail) => {
          answered = ({ value }) => (value ? done(value) : fail());
          post({ term, ask: 1, renew, to: [...tabs].pop() });
        });
      release = free;
      stream = open(options(), inWorker ? askTab : ask, tell);
      tell(stream.welcome());
    });
  const resign = () => {
    stream?.close();
    stream = term = undefined;
  };
  const request = (how) =>
    locks.request(key, how, lead).catch(() => {
      if (closed || !stream) return;
      resign();
      queue = enqueue();
      say({ join: 1 });
    });
  const enqueue = () => {
    const waiting = new AbortController();
    request(waiting);
    return waiting;
  };
  channel.onmessage = async ({ data: message }) => {
    const { from, to = me, join, kick } = message;
    if (from) {
      tabs.delete(from);
      if (!message.left) tabs.add(from);
      else if (!tabs.size) inWorker?.();
      if (message.answer) answered?.(message);
      else if (kick) stream?.kick(kick);
      else if (stream) post({ term, to: from, ...(join && stream.welcome()) });
    }
    if (message.ended) return receive(message);
    if (from || stream || to !== me) return;
    missed = 0;
    queue ??= enqueue();
    if (message.ask) {
      say({ answer: 1, value: await ask(message.renew).catch(() => {}) });
    } else if (message.welcome) {
      if (term !== (term = message.term) || message.to) receive(message);
    } else if (message.term === term) receive(message);
    else say({ join: 1 });
  };
  const timer = setInterval(() => {
    const slept = Date.now() - last > 2 * TICK;
    last = Date.now();
    if (stream || inWorker) return;
    missed = slept ? 0 : missed + 1;
    if (missed > 3) {
      missed = 0;
      queue?.abort();
      queue = undefined;
      request({ steal: true });
    }
    say();
  }, TICK);

  if (inWorker) queue = enqueue();
  else {
    locks.request(`${key} tab`, { mode: 'shared' }, () => {
      if (closed) return;
      try {
        const worker = new SharedWorker(import.meta.url, { type: 'module', name: key });
        worker.onerror = () => (queue ??= enqueue());
        worker.port.postMessage({ key, ...options() });
      } catch {
        queue = enqueue();
      }
      say({ join: 1 });
      return new Promise((free) => (leave = free));
    }).catch(lead);
  }
  return {
    close() {
      closed = true;
      clearInterval(timer);
      queue?.abort();
      resign();
      release?.();
      leave?.();
      say({ left: 1 });
      channel.close();
    },
    kick: (kick) => (stream ? stream.kick(kick) : say({ kick })),
  };
}

if (globalThis.SharedWorkerGlobalScope) {
  let hub, key;
  const close = () => (hub = hub?.close());
  globalThis.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data }) => {
      key = data.key;
      hub ??= share({ key, options: () => data, receive: (message) => message.ended && close() }, close);
    };
  };
  setInterval(async () => {
    const { held } = await navigator.locks.query();
    if (!held.some(({ name }) => name === `${key} tab`)) close();
  }, TICK);
}

const order = (id) => id.split('-').map((part) => part.padStart(20)).join();

export const clients = new Set();

export function connect(url = new URL('.', import.meta.url), settings = {}) {
  const { auth, share: shared = true, storage, when = 'always', heartbeat, withCredentials = false } = settings;
  const { transports: names = ['fetch', 'eventsource', 'poll'] } = settings;
  const wrong = [...names, when].find((name) => !transports[name] && !/^(always|visible|focused)$/.test(name));
  if (wrong || !names.length) throw TypeError(`connect: unknown ${wrong}`);
  const page = globalThis.document;
  const place = `${PROTOCOL} ${(url = new URL(url, page?.baseURI).href)} ${shared}`;
  const key = `${place} ${names} ${withCredentials}`;
  const handlers = new Map();
  const warned = new Set();
  const listening = new AbortController();
  let lastId = settings.lastId ?? guard(() => storage?.getItem(place)) ?? undefined;
  let status = 'connecting', remote, link, live, buffer, was, closed, away, hidden, seen = new Map();
  let floor = /^\d+(-\d+)?$/.test(lastId) ? order(lastId) : '';

  const emit = (name, data) => {
    for (const fn of [...(handlers.get(name) ?? [])]) guard(fn, data);
  };
  const fire = (name, detail) =>
    page?.dispatchEvent(Object.assign(new CustomEvent(name, { detail, bubbles: true, cancelable: true }), { client }));
  const update = () => {
    const next = closed ? 'closed' : !link ? 'paused' : live && remote === 'connected' ? remote : was ?? 'connecting';
    if (next === 'connected') was = 'reconnecting';
    if (next === status) return;
    status = next;
    emit('status', status);
    fire('notify-status', status);
  };
  const take = ({ name, id, data }) => {
    const { user, type } = data;
    if (name === 'message') {
      const position = data.id && order(data.id);
      if (position <= (seen.get(user) ?? floor)) return;
      if (position) seen.set(user, position);
      if (!/^(gap|sync|status|end)$/.test(type)) emit(type, data);
      emit('*', data);
      fire('notify', data);
    } else {
      if (data.reason === 'rewound') {
        seen = new Map();
        floor = '';
      }
      emit(name.replace(/^notify\.(?=gap|sync|end)/, ''), data);
    }
    if (!id) return;
    lastId = id;
    guard(() => storage?.setItem(place, id));
  };
  const catchUp = (sync) => {
    const mine = (buffer = []);
    const done = (id) => {
      live = true;
      buffer = undefined;
      take({ name: 'notify.sync', id, data: sync });
      mine.forEach(take);
      update();
    };
    if (!lastId || lastId === sync.position) return done(sync.position);
    const own = open({ ...options(), transports: ['poll'] }, ask, (message) => {
      if (mine !== buffer) return own.close();
      if (message.ended) receive(message);
      if (message.name !== 'notify.sync') return message.name && take(message);
      own.close();
      done(message.id);
    });
  };
  const receive = (message) => {
    const { welcome, name, data, ended, code } = message;
    if (code && !(code < 400 || warned.has(code))) console.warn(`notify: ${url} answered ${code}`);
    warned.add(code);
    if (ended) {
      take({ name: 'notify.end', id: live && message.id, data: ended });
      return client.close();
    }
    remote = message.status ?? remote;
    if (welcome) {
      buffer = undefined;
      live = lastId && message.position === lastId;
      if (live && data) emit('sync', data);
    }
    if (live && name) take(message);
    else if (buffer && name) buffer.push(message);
    else if (!live && data && name !== 'message') catchUp(data);
    update();
  };
  const ask = async (renew) => (typeof auth === 'function' ? await auth(!!renew) : auth) ?? {};
  const options = () => ({ url, lastId, heartbeat, withCredentials, transports: names, auth: !!auth });
  const attempt = (renew) => Object.assign(new Attempt(), { options: options(), ask: () => ask(renew) });
  const alone = () => {
    const stream = open(options(), ask, receive);
    receive(stream.welcome());
    return stream;
  };
  const check = () => {
    const shown = page?.visibilityState !== 'hidden';
    const wanted = !closed && !away && (when === 'always' || (shown && (when !== 'focused' || page.hasFocus())));
    if (wanted !== !!link) {
      link?.close();
      live = buffer = undefined;
      link = wanted || null;
      if (wanted) link = shared && navigator.locks ? share({ key, options, ask, receive }) : alone();
    }
    if (shown && Date.now() - hidden > AWAY) link?.kick('away');
    hidden = shown ? undefined : hidden ?? Date.now();
    update();
  };
  const listen = (target, names, fn) => {
    for (const name of names.split(' ')) target?.addEventListener(name, fn, listening);
  };
  const client = {
    get status() {
      return status;
    },
    get lastId() {
      return lastId;
    },
    on(name, fn) {
      const own = handlers.get(name) ?? new Set();
      handlers.set(name, own.add(fn));
      return () => own.delete(fn);
    },
    inbox(wanted) {
      const listeners = new Set();
      const box = {
        items: [],
        counts: { total: 0, unseen: 0, unread: 0, position: '' },
        hasMore: false,
        loading: true,
        subscribe: (fn) => listeners.add(fn) && (() => listeners.delete(fn)),
      };
      const tell = () => [...listeners].forEach((fn) => guard(fn, box));
      const ready = import('./inbox.js').then(({ fill }) => fill(box, client, attempt, tell, wanted));
      for (const name of 'close more refresh seen read unread dismiss restore readUpTo'.split(' ')) {
        box[name] = async (...given) => (await ready, box[name](...given));
      }
      ready.catch((error) => tell(Object.assign(box, { error, loading: false })));
      return box;
    },
    close() {
      closed = true;
      listening.abort();
      clients.delete(client);
      check();
    },
  };
  clients.add(client);
  const leave = () => check((away = true));
  const back = () => check((away = false));
  listen(page, 'freeze', leave);
  listen(page, 'resume', back);
  listen(globalThis, 'pagehide', leave);
  listen(globalThis, 'pageshow', back);
  listen(globalThis, 'focus blur visibilitychange', check);
  listen(globalThis, 'online offline', ({ type }) => link?.kick(type));
  check();
  return client;
}
