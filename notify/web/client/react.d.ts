import type { Client, Inbox, InboxOptions, NotifyEvent, Options, Status } from "./client.js";

export interface NotifyState<Payload = unknown> {
  readonly status: Status;
  readonly connected: boolean;
  /** The newest first, at most `limit`; one of each group. */
  readonly events: readonly NotifyEvent<Payload>[];
  readonly last: NotifyEvent<Payload> | undefined;
  readonly lastId: string | undefined;
  readonly client: Client | undefined;
}

export interface HookOptions extends Options {
  /** How many events are kept. Default: 50. */
  limit?: number;
  /** Which types are kept. Default: all. */
  types?: readonly string[];
  /** The connection begins again when this changes: a token, a user id. */
  key?: string | number;
}

/** Follow the notifications at a URL, or those of a client that exists, for as long as the component is mounted. */
export function useNotify<Payload = unknown>(source: string | URL | Client, options?: HookOptions): NotifyState<Payload>;

/** The inbox of a client, or of a URL, as values and functions; `key` as for `useNotify`, and for another filter. */
export function useInbox<Payload = unknown>(
  source: string | URL | Client,
  options?: Options & InboxOptions & { key?: string | number },
): Omit<Inbox<Payload>, "subscribe" | "close">;
