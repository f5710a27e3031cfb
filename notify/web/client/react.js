// Hooks for React: `const { status, events } = useNotify("/notify", { auth, key: token })`, and `useInbox` likewise.
import { useMemo, useSyncExternalStore } from 'react';
import { connect } from './client.js';

/** What `useSyncExternalStore` takes: one immutable value. `open(publish)` runs for the first subscriber and returns how to close. */
function createStore(initial, open) {
  let snapshot = initial, close;
  const listeners = new Set();
  const publish = (change) => {
    snapshot = { ...snapshot, ...change };
    for (const listener of [...listeners]) listener();
  };
  return {
    initial: () => initial,
    snapshot: () => snapshot,
    subscribe(listener) {
      listeners.add(listener);
      close ??= open(publish);
      return () => {
        listeners.delete(listener);
        if (listeners.size) return;
        close();
        close = undefined;
      };
    },
  };
}

/** The client at a URL, which is then ours to close, or the one that was given. */
function clientOf(source, options) {
  if (typeof source.on === 'function') return [source, () => {}];
  const client = connect(source, options);
  return [client, () => client.close()];
}

const EMPTY = { status: 'connecting', connected: false, events: [], last: undefined, lastId: undefined, client: undefined };

/** What tells one source from another: a `URL` may be a new object in each render. */
const identity = (source) => (typeof source.on === 'function' ? source : String(source));

function createEventStore(source, { limit = 50, types, key, ...options }) {
  let events = [], lastId = options.lastId;
  return createStore(EMPTY, (publish) => {
    // A component that is shown again resumes after the last event that it received.
    const [client, close] = clientOf(source, { ...options, lastId });
    const set = (change) => {
      const { status, lastId } = client;
      publish({ ...change, client, status, lastId, connected: status === 'connected' });
    };
    const take = (event) => {
      if (types && !types.includes(event.type)) return;
      // an event of a group replaces the one before it
      const others = event.group ? events.filter(({ group, user }) => group !== event.group || user !== event.user) : events;
      events = [event, ...others].slice(0, limit);
      set({ events, last: event });
    };
    const removers = [client.on('*', take), client.on('status', () => set()), client.on('sync', () => set())];
    set();
    return () => {
      for (const remove of removers) remove();
      lastId = client.lastId ?? lastId;
      close();
    };
  });
}

/**
 * Follow the notifications at a URL, or those of a client that exists.
 *
 * The connection begins with the component and ends with it; it begins again when the URL or `key` changes (a token or
 * a user id). Other options are those of `connect`, and are read once for each connection.
 */
export function useNotify(source, options = {}) {
  const store = useMemo(() => createEventStore(source, options), [identity(source), options.key]);
  return useSyncExternalStore(store.subscribe, store.snapshot, store.initial);
}

const NO_COUNTS = { total: 0, unseen: 0, unread: 0, position: '' };
const CALLS = ['more', 'refresh', 'seen', 'read', 'unread', 'dismiss', 'restore', 'readUpTo'];

function createInboxStore(source, { filter, limit, key, ...options }) {
  let inbox;
  // Before the first subscriber there is no inbox to change: a call waits for none, and does nothing.
  const calls = Object.fromEntries(CALLS.map((name) => [name, async (...given) => inbox?.[name](...given)]));
  const empty = { items: [], counts: NO_COUNTS, hasMore: false, loading: true, error: undefined, ...calls };
  return createStore(empty, (publish) => {
    const [client, close] = clientOf(source, options);
    inbox = client.inbox({ filter, limit });
    inbox.subscribe(() => {
      const { items, counts, hasMore, loading, error } = inbox;
      publish({ items, counts, hasMore, loading, error });
    });
    return () => {
      inbox.close();
      close();
    };
  });
}

/**
 * Follow the inbox at a URL, or that of a client that exists: `const { items, counts, dismiss } = useInbox(client)`.
 *
 * It begins with the component and ends with it; it begins again when the source or `key` changes. `filter` and `limit`
 * are those of `client.inbox`, and are read once for each beginning.
 */
export function useInbox(source, options = {}) {
  const store = useMemo(() => createInboxStore(source, options), [identity(source), options.key]);
  return useSyncExternalStore(store.subscribe, store.snapshot, store.initial);
}
