/**
 * - "unsupported": this browser, or a page without https, has no web push.
 * - "install": on iOS and iPadOS, web push works only once the web app is on the home screen.
 * - "denied": the user has blocked notifications of this site.
 * - "default": not subscribed; `subscribe()` asks the user, if the user was not asked before.
 * - "subscribed": this browser has a subscription, and the server has accepted it for this `user`.
 */
export type PushState = "unsupported" | "install" | "denied" | "default" | "subscribed";

/**
 * Beside the states: "gesture" (not called in a click or a key press), "dismissed" (the user has closed the permission
 * prompt without an answer), "worker" (the service worker was not installed), "service" (the push service of the browser
 * did not accept the subscription), "unreachable" (the server did not answer), "refused" (it refused, with `status`).
 */
export type PushErrorCode =
  | "unsupported" | "install" | "denied" | "gesture" | "dismissed" | "worker" | "service" | "unreachable" | "refused";

export class PushError extends Error {
  readonly code: PushErrorCode;
  readonly status?: number;
}

export interface PushOptions {
  /** Headers to send, or a function that returns them; it is called with true if the server has refused the last ones.
   * Cookies are sent in any case. */
  auth?:
    | Readonly<Record<string, string>>
    | ((renew: boolean) => Readonly<Record<string, string>> | Promise<Readonly<Record<string, string>>>);
  /** Any text that identifies the user: when it has changed, this browser is registered again, for that user. */
  user?: string;
  /** A service worker of your own, which imports ours: its URL or its registration. */
  worker?: string | ServiceWorkerRegistration | Promise<ServiceWorkerRegistration>;
}

export interface WebPush {
  state(): Promise<PushState>;
  /** Ask the user if need be, subscribe, and register this browser with the server; rejects with a `PushError`. Call it
   * in a click or a key press. */
  subscribe(): Promise<void>;
  /** End the subscription, here and on the server. The permission stays, so the user is not asked again. */
  unsubscribe(): Promise<void>;
}

/** Web push over the DispatchApp at `url`; by default the one that this module was loaded from. A subscription is
 * renewed when the key of the server has changed, or the browser has ended it. */
export function webPush(url?: string | URL, options?: PushOptions): WebPush;

/** What the service worker got: see docs/howto/web-push.md. */
export interface PushPayload {
  title?: string;
  body?: string;
  url?: string;
  readonly id?: string;
  readonly notification?: string;
  readonly type?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  [member: string]: unknown;
}

declare global {
  interface DocumentEventMap {
    /** A message that came while this page is visible. `preventDefault()`: the page shows it itself. What a listener
     * changes in `detail` is what the service worker shows. */
    "notify-push": CustomEvent<PushPayload>;
    "notify-push-state": CustomEvent<PushState>;
  }
}
