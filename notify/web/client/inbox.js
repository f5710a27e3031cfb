// client.inbox(): client.js loads this. Reasons: docs/internals/browser.md.
const TIMES = ['seen_at', 'read_at', 'dismissed_at'];
const SETS = { seen: 1, read: 2, dismissed: 3 }; // the first n
const CLEARS = { unread: 1, restored: 2 };
const ADDS = { active: /unread|restored/, unread: /unread/, read: /^read|restored/, dismissed: /dismissed/, all: /^$/ };

const order = (id = '') => id.split('@')[0].split('-').map((part) => part.padStart(20)).join();
const rank = (id) => id.replace(/[^@]*/, order);
const code = (c) => `_${c === '%' ? '' : c.charCodeAt().toString(16).toUpperCase()}`;
const nameOf = (log) => encodeURIComponent(log).replace(/[%_.!~*'()]/g, code);
const isLong = (log) => nameOf(log)[22]; // positions contain a hash of it

const places = (position) => {
  const parts = position.startsWith('m1.') ? position.slice(3).split('.') : ['', position];
  return new Map(parts.flatMap((id, i) => (i % 2 ? [[i > 1 ? parts[i - 1] : '', id]] : [])));
};
const isOlder = (one, other) => {
  const ours = places(one);
  const both = [...places(other)].map(([log, id]) => [order(ours.get(log) ?? id), order(id)]);
  return both.some(([a, b]) => a < b) && !both.some(([a, b]) => a > b);
};

// undefined: the log is not named
export const covers = (end, { id, user }, own) => {
  const [, log] = end.split(/@(.*)/s);
  const to = log ? log === user && end : places(end).get(user === own ? '' : nameOf(user));
  return to && order(id) <= order(to);
};

const changed = (item, { state, at }) => {
  const next = { ...item };
  for (const name of TIMES.slice(0, SETS[state] ?? 0)) next[name] ??= at;
  for (const name of TIMES.slice(state ? CLEARS[state] ?? 3 : 0)) next[name] = null;
  return next;
};

export function fill(box, client, attempt, emit, { filter = {}, limit = 20 } = {}) {
  const { state: list = 'active', types, group } = typeof filter === 'string' ? { state: filter } : filter;
  const held = new Map();
  let own, ownName, isLive, topics, cursor, arrived, soon, again, timer, view, isClosed, isBroken;
  let base = new Map(), pending = [], recent = [];
  let loads = Promise.resolve(), marks = loads;

  const after = (changes, item) => changes.reduce((now, change) => (hits(change, now) ? changed(now, change) : now), item);
  const compute = () =>
    [...held.values()]
      .map((item) => after(pending, item))
      .filter(
        (item) =>
          (list === 'all' || !item.dismissed_at === (list !== 'dismissed')) &&
          (list !== 'unread' || !item.read_at) &&
          (list !== 'read' || item.read_at) &&
          (types ?? [item.type]).includes(item.type) &&
          (group ?? item.group) === item.group &&
          !(new Date(item.item.expires_at ?? NaN) <= Date.now()) &&
          !(cursor && rank(item.id) < rank(cursor)) &&
          (typeof filter !== 'function' || filter(item)),
      )
      .sort((a, b) => (rank(a.id) < rank(b.id) ? 1 : -1));
  const publish = (news) => {
    Object.assign(box, news);
    if (isClosed) return;
    clearTimeout(soon);
    clearTimeout(timer);
    soon = view = undefined;
    const left = [...held.values()].map(({ item }) => new Date(item.expires_at ?? NaN) - Date.now());
    timer = setTimeout(publish, Math.min(...left.filter((ms) => ms > 0), 2 ** 31 - 2) + 1);
    emit();
  };
  const count = (counts, position = counts.position) => {
    const { total, unseen, unread } = counts;
    if (total >= 0 && !isOlder(position, box.counts.position)) publish({ counts: { total, unseen, unread, position } });
  };

  const call = async (path, query, body, renew) => {
    const c = attempt(renew);
    const late = setTimeout(() => c.abort(), 15000);
    try {
      await c.login();
      const headers = { ...c.headers, 'Content-Type': 'application/json' };
      const text = JSON.stringify(body);
      // sent although the page is left; browsers refuse that for more than 64 KiB
      const init = body && { method: 'POST', body: text, headers, keepalive: text.length < 10000 };
      return await (await c.get(path, { ...query, ticket: c.ticket }, init)).json();
    } catch (error) {
      if (c.status === 401 && c.options.auth && !renew) return call(path, query, body, true);
      throw Object.assign(error, { status: c.status });
    } finally {
      clearTimeout(late);
    }
  };
  const load = async (isMore) => {
    if (isMore && !cursor) return;
    const size = isMore ? limit : Math.min(100, Math.max(limit, box.items.length));
    const before = isMore ? cursor : undefined;
    arrived = [];
    publish({ loading: true });
    try {
      const page = await call('inbox', { state: list, types, group, before, limit: size });
      if (!isMore) {
        const follows = page.position.startsWith('m1.') && (await call('following')).topics;
        topics = new Set(follows || []);
        held.clear();
        recent = [];
        base = places(page.position);
        own = isLive && page.user;
        ownName = page.position.split('.')[1];
        isBroken = false;
      }
      cursor = page.next;
      for (const item of page.items) put({ item: {}, ...item });
      arrived.forEach(isMore ? alter : fold);
      worked();
      count(page.counts);
      return page.position;
    } catch (error) {
      box.error = error;
      isBroken ||= !isMore;
      throw error;
    } finally {
      arrived = undefined;
      settle();
      publish({ loading: false, hasMore: !!cursor });
    }
  };
  const enqueue = (isMore) => {
    if (!isMore) again = clearTimeout(again);
    const result = loads.then(() => load(isMore));
    loads = result.catch(() => {});
    return result;
  };
  const refresh = () => enqueue();
  const stale = () => isClosed || (again ??= setTimeout(refresh, 50));
  const worked = () => {
    box.error = undefined;
    if (isBroken) stale();
  };

  const hits = (change, item) => {
    const { id, ids, group, up_to: end } = change;
    if (ids) return ids.includes(item.id);
    const isOther = item.user !== own;
    if (group && (item.group !== group || (id && !isOther && order(item.id) > order(id)))) return;
    const isHit = group || covers(end, item, own);
    // only a page tells which came first, or which log is meant
    if (id && isOther && (group || (isHit === undefined && isLong(item.user) && /\.~/.test(end)))) stale();
    return isHit;
  };
  const put = (item) => {
    const { id, user, group } = item;
    if (held.has(id)) return;
    for (const other of held.values()) {
      if (!group || other.group !== group || other.user !== user) continue;
      if (rank(other.id) > rank(id)) return;
      held.delete(other.id);
    }
    held.set(id, item);
  };
  const alter = ({ id, type, payload, timestamp, user }) => {
    const [, state] = /^notify\.(seen|read|unread|dismissed|restored)$/.exec(type) ?? [];
    if (!state || user !== own) return;
    const change = { ...payload, id, state, at: timestamp };
    const isKnown = (id) => held.has(id) || (cursor && rank(id) < rank(cursor));
    if (ADDS[list].test(state) && !payload.ids?.every(isKnown)) stale();
    recent = [...recent, change].slice(-50);
    for (const item of held.values()) {
      if (hits(change, item)) held.set(item.id, changed(item, change));
    }
  };
  const fold = (event) => {
    const { id, user, type, payload } = event;
    const name = user === own ? '' : nameOf(user);
    if (!id || (name && !topics.has(user))) return;
    const ends = name[22] ? [...base].filter(([log]) => log[22]).map(([, end]) => end) : [base.get(name)];
    const isNew = (end) => order(id) > order(end);
    if (!ends.every(isNew)) return ends.some(isNew) && stale(); // only a page tells which of the hashes is this log's
    if (!name[22]) base.set(name, id);
    if (event.item) put(after(name ? recent : [], { ...event, id: name ? `${id}@${user}` : id, ...changed({}, {}) }));
    if (!name && /^notify\.(followed|unfollowed|merged)$/.test(type)) {
      if (payload.since) topics.add(payload.topic);
      stale();
    }
    alter(event);
  };
  const settle = () => {
    pending = pending.filter(({ until }) => !until || order(until) > order(base.get('')));
  };

  const show = (state, target, prepare) => {
    const change = { ...target, state, at: new Date().toISOString() };
    const drop = () => (pending = pending.filter((other) => other !== change));
    pending.push(change);
    publish();
    return async (isLeft) => {
      const isSame = ({ ids }) => ids && `${ids}` === `${change.ids}`;
      const last = pending.findLast(isSame) ?? change;
      if (isLeft && last !== change && (last.state === state || /^dis|^unr/.test(last.state))) return void drop();
      try {
        await prepare?.();
        const answer = await call('inbox/mark', {}, { state, ...target });
        change.until = answer.event ?? places(answer.position).get('');
        worked();
        count(answer.counts);
        return answer;
      } catch (error) {
        drop();
        box.error = error;
        throw error;
      } finally {
        settle();
        publish();
      }
    };
  };
  // each waits for the answer to the one before it, unless the page is left
  const queue = (act) => {
    let sent;
    const send = (isLeft) => (sent ??= act(isLeft));
    const leave = () => send(true).catch(() => {});
    addEventListener('pagehide', leave);
    const result = marks.then(() => send()).finally(() => removeEventListener('pagehide', leave));
    marks = result.catch(() => {});
    return result;
  };
  const mark = (state, target) => queue(show(state, target));
  const named = (state) => (target) =>
    mark(state, target.ids || (target.group && !target.id) ? target : { ids: [target].flat().map((one) => one.id ?? one) });
  const upTo = (state) => (position) => {
    position ||= !base.size && box.counts.position;
    if (position) return mark(state, { up_to: position });
    if (!base.size) {
      const page = refresh();
      page.catch(() => {});
      return queue(async () => show(state, { up_to: await page })());
    }
    const ends = [...base];
    const several = () => `m1.${ends.map(([log, id]) => `${log || ownName}.${id}`).join('.')}`;
    const end = { up_to: ends[1] ? several() : ends[0][1] };
    const complete = async () => {
      while (base.size > 1 && !ownName) await refresh(); // a page without topics does not name the user
      if (ends[1]) end.up_to = ownName ? several() : ends[0][1];
    };
    const isLate = (item) => item.user !== own && isLong(item.user) && !item[TIMES[SETS[state] - 1]];
    const ids = box.items.filter(isLate).map(({ id }) => id);
    const acts = [...(ids[0] ? [show(state, { ids })] : []), show(state, end, complete)];
    return queue(async () => {
      const parts = await Promise.allSettled(acts.map((act) => act()));
      const { reason: error } = parts.find(({ reason }) => reason) ?? {};
      if (!error) return parts.at(-1).value;
      publish({ error });
      throw error;
    });
  };

  const begin = () => {
    if (!isLive || box.error) refresh();
    isLive = true;
  };
  const removers = [
    client.on('*', (event) => {
      arrived?.push(event);
      if (!own) return;
      fold(event);
      settle();
      view = undefined;
      soon ??= setTimeout(publish);
    }),
    client.on('notify.counts', (counts) => count(counts)),
    client.on('sync', (sync) => {
      count(sync, sync.counts_position);
      begin();
    }),
    client.on('status', (status) => status === 'connected' && begin()),
    client.on('gap', () => {
      box.counts.position = '';
      stale();
    }),
  ];
  Object.defineProperty(box, 'items', { get: () => (view ??= compute()), enumerable: true });
  Object.assign(box, {
    refresh,
    more: () => enqueue(true),
    seen: upTo('seen'),
    readUpTo: upTo('read'),
    read: named('read'),
    unread: named('unread'),
    dismiss: named('dismissed'),
    restore: named('restored'),
    close() {
      isClosed = true;
      for (const remove of removers) remove();
      clearTimeout(timer);
      clearTimeout(again);
    },
  });
  if (client.status === 'connected') begin();
}
