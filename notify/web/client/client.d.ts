/** An event as the server sends it. An ephemeral event has no `id`. */
export interface NotifyEvent<Payload = unknown> {
  readonly id?: string;
  readonly user: string;
  readonly type: string;
  readonly payload: Payload;
  readonly timestamp: string;
  readonly group?: string;
  readonly meta?: Readonly<Record<string, unknown>>;
  /** Only on what an inbox lists. */
  readonly item?: { readonly expires_at?: string };
}

/** Continuity cannot be proven between two positions: read the state again from its source. */
export interface Gap {
  readonly reason: "trimmed" | "expired" | "rewound" | "invalid" | (string & {});
  readonly from: string;
  readonly to: string;
  readonly user?: string;
}

/** Everything up to `position` was delivered. `heartbeat` is in seconds. The numbers are those of the inbox. */
export interface Sync {
  readonly position: string;
  readonly heartbeat?: number;
  readonly total?: number;
  readonly unseen?: number;
  readonly unread?: number;
  readonly counts_position?: string;
}

/** The server ended the connection. After "disconnected" and "forbidden", and after "expired" where `auth` did not
 * help, the client is closed; after the others it comes back by itself, in `retry` milliseconds. */
export interface End {
  readonly reason:
    | "expired" | "disconnected" | "forbidden" | "shutdown" | "replaced" | "overload" | "lifetime" | (string & {});
  readonly retry?: number;
}

export type Status = "connecting" | "connected" | "reconnecting" | "paused" | "closed";
export type Transport = "fetch" | "eventsource" | "poll" | "websocket";

/** Headers to send, or a ticket: a string, or an object with a `ticket`. */
export type Credentials = Readonly<Record<string, string>> | string;

export interface Options {
  /** Credentials, or a function that returns them. It is called for each connection, with true if the server has
   * refused the last ones. Headers become a ticket (`POST /ticket`) where a transport cannot send them. */
  auth?: Credentials | ((renew: boolean) => Credentials | null | undefined | Promise<Credentials | null | undefined>);
  /** What to use, in this order. Default: fetch, eventsource, poll. */
  transports?: readonly Transport[];
  /** Whether the tabs of this browser share one connection (default true). A text names the tabs that do, for example
   * by the user, if tabs can be logged in as different users. */
  share?: boolean | string;
  /** Where to start: a position from an earlier `lastId`; "0" for everything that is retained. Default: from now. */
  lastId?: string;
  /** Where the position is kept, so that the next page resumes: `localStorage` or `sessionStorage`. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** Send cookies to another origin. */
  withCredentials?: boolean;
  /** When to be connected: always (default), while the page is visible, or while it has the focus. */
  when?: "always" | "visible" | "focused";
  /** Seconds between heartbeats until the server has said so. Default: 15, the server's own default. */
  heartbeat?: number;
}

/** An entry of an inbox: its event, with the item's own id (`<id>@<log>` where it comes from a topic), and its state. */
export interface Item<Payload = unknown> extends NotifyEvent<Payload> {
  readonly id: string;
  readonly item: { readonly expires_at?: string };
  readonly seen_at: string | null;
  readonly read_at: string | null;
  readonly dismissed_at: string | null;
}

/** Of the active items, exact for `position`. */
export interface Counts {
  readonly total: number;
  readonly unseen: number;
  readonly unread: number;
  readonly position: string;
}

export type ItemState = "active" | "unread" | "read" | "dismissed" | "all";

export interface ItemFilter {
  /** Default: "active", that is, not dismissed. */
  readonly state?: ItemState;
  readonly types?: readonly string[];
  readonly group?: string;
}

export interface InboxOptions {
  /** What is listed: a state, several conditions, or a function that selects among the active items. */
  filter?: ItemFilter | ItemState | ((item: Item) => boolean);
  /** Items of a page, at most 100. Default: 20. */
  limit?: number;
}

/** What a change did: `event` is the id of the event that says so, null if nothing has changed. */
export interface Change {
  readonly ids: readonly string[];
  readonly counts: Counts;
  readonly position: string;
  readonly event: string | null;
}

/** Items by their ids, or all of a group. */
export type Items = string | Item | readonly (string | Item)[] | { readonly ids: readonly string[] } | { readonly group: string };

/** A list of items that follows the stream. A change is shown at once, and taken back if the server refuses it: then
 * the promise rejects, and `error` says why; a rejection that is not handled is not reported. */
export interface Inbox<Payload = unknown> {
  /** Newest first; another array after each change. */
  readonly items: readonly Item<Payload>[];
  /** As the server tells them: they are never computed from `items`. */
  readonly counts: Counts;
  readonly hasMore: boolean;
  readonly loading: boolean;
  /** Why the last request failed; undefined after one that did not. `status` is that of HTTP, if there was an answer. */
  readonly error?: Error & { readonly status?: number };
  /** Call `listener` after each change; returns a function that removes it. */
  subscribe(listener: (inbox: Inbox<Payload>) => void): () => void;
  /** Read the next page. */
  more(): Promise<void>;
  /** Read the first page again. */
  refresh(): Promise<void>;
  /** Mark what is before a position, or an item's id, as seen or read; by default, everything that this page has now. */
  seen(upTo?: string): Promise<Change>;
  readUpTo(upTo?: string): Promise<Change>;
  read(items: Items): Promise<Change>;
  unread(items: Items): Promise<Change>;
  dismiss(items: Items): Promise<Change>;
  restore(items: Items): Promise<Change>;
  /** Stop to follow the stream. */
  close(): void;
}

export interface Client {
  readonly status: Status;
  /** The position up to which everything was delivered. */
  readonly lastId: string | undefined;
  /** Call `handler` for what has this name; returns a function that removes it. An error of one handler is reported
   * and does not reach the others. */
  on(name: "status", handler: (status: Status) => void): () => void;
  on(name: "gap", handler: (gap: Gap) => void): () => void;
  on(name: "sync", handler: (sync: Sync) => void): () => void;
  on(name: "end", handler: (end: End) => void): () => void;
  on(name: "notify.counts", handler: (counts: Counts) => void): () => void;
  /** Events of one type, or of all types by "*" (also those called gap, sync, status or end). */
  on<Payload = unknown>(type: string, handler: (event: NotifyEvent<Payload>) => void): () => void;
  /** A list of the user's items; the server needs `NotifyApp(inbox=...)`. Its module, `inbox.js`, is loaded at the first call. */
  inbox<Payload = unknown>(options?: InboxOptions): Inbox<Payload>;
  /** End the connection for good. */
  close(): void;
}

/** Connect to the application that is mounted at `url`; by default the one that this module was loaded from. */
export function connect(url?: string | URL, options?: Options): Client;

/** The clients of this page that are not closed. */
export const clients: ReadonlySet<Client>;

/** A parser of server-sent events: feed it text, cut anywhere. */
export function parser(
  frame: (name: string, id: string | undefined, data: string) => void,
  retry: (milliseconds: number) => void,
): (text: string) => void;

declare global {
  interface DocumentEventMap {
    /** Every event; `preventDefault()` keeps <notify-toasts> from showing it. */
    notify: CustomEvent<NotifyEvent> & { readonly client: Client };
    "notify-status": CustomEvent<Status> & { readonly client: Client };
  }
}
