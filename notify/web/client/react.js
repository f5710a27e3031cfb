// Hooks for React: `const { status, events } = useNotify("/notify", { auth, key: token })`, and `useInbox` likewise.
import { useMemo, useSyncExternalStore } from 'react';
import { connect } from './client.js';

const EMPTY = { status: 'connecting', connected: false, events: [], last: undefined, lastId: undefined, client: undefined };

/** Keep what a client says as one immutable value; the client is opened by the first subscriber if `source` is a URL. */
function createStore(source, { limit = 50, types, key, ...options }) {
  let snapshot = EMPTY, close;
  const listeners = new Set();
  const open = () => {
    const isOurs = typeof source.on !== 'function';
    const client = isOurs ? connect(source, options) : source;
    const set = (change) => {
      const { status, lastId } = client;
      snapshot = { ...snapshot, ...change, client, status, lastId, connected: status === 'connected' };
      for (const listener of [...listeners]) listener();
    };
    const take = (event) => {
      if (types && !types.includes(event.type)) return;
      // an event of a group replaces the one before it
      const others = event.group ? snapshot.events.filter(({ group, user }) => group !== event.group || user !== event.user) : snapshot.events;
      set({ events: [event, ...others].slice(0, limit), last: event });
    };
    const removers = [client.on('*', take), client.on('status', () => set()), client.on('sync', () => set())];
    set();
    return () => {
      for (const remove of removers) remove();
      if (isOurs) client.close();
    };
  };
  return {
    snapshot: () => snapshot,
    subscribe(listener) {
      listeners.add(listener);
      close ??= open();
      return () => {
        listeners.delete(listener);
        if (listeners.size) return;
        close();
        close = undefined;
      };
    },
  };
}

const initial = () => EMPTY;

/**
 * Follow the notifications at a URL, or those of a client that exists.
 *
 * The connection begins with the component and ends with it; it begins again when the URL or `key` changes (a token or
 * a user id). Other options are those of `connect`, and are read once for each connection.
 */
export function useNotify(source, options = {}) {
  const store = useMemo(() => createStore(source, options), [source, options.key]);
  return useSyncExternalStore(store.subscribe, store.snapshot, initial);
}

const NO_COUNTS = { total: 0, unseen: 0, unread: 0, position: '' };
const CALLS = ['more', 'refresh', 'seen', 'read', 'unread', 'dismiss', 'restore', 'readUpTo'];

/** Keep an inbox as one immutable value; it is opened by the first subscriber. */
function createInboxStore(source, { filter, limit, key, ...options }) {
  let inbox, close;
  const listeners = new Set();
  // Before the first subscriber there is no inbox to change: a call waits for none, and does nothing.
  const calls = Object.fromEntries(CALLS.map((name) => [name, async (...given) => inbox?.[name](...given)]));
  const empty = { items: [], counts: NO_COUNTS, hasMore: false, loading: true, error: undefined, ...calls };
  let snapshot = empty;
  const open = () => {
    const isOurs = typeof source.on !== 'function';
    const client = isOurs ? connect(source, options) : source;
    inbox = client.inbox({ filter, limit });
    const set = () => {
      const { items, counts, hasMore, loading, error } = inbox;
      snapshot = { ...empty, items, counts, hasMore, loading, error };
      for (const listener of [...listeners]) listener();
    };
    inbox.subscribe(set);
    return () => {
      inbox.close();
      if (isOurs) client.close();
    };
  };
  return {
    initial: () => empty,
    snapshot: () => snapshot,
    subscribe(listener) {
      listeners.add(listener);
      close ??= open();
      return () => {
        listeners.delete(listener);
        if (listeners.size) return;
        close();
        close = undefined;
      };
    },
  };
}

/**
 * Follow the inbox at a URL, or that of a client that exists: `const { items, counts, dismiss } = useInbox(client)`.
 *
 * It begins with the component and ends with it; it begins again when the source or `key` changes. `filter` and `limit`
 * are those of `client.inbox`, and are read once for each beginning.
 */
export function useInbox(source, options = {}) {
  const store = useMemo(() => createInboxStore(source, options), [source, options.key]);
  return useSyncExternalStore(store.subscribe, store.snapshot, store.initial);
}
