// Requests to a DispatchApp, for push.js and preferences.js.

const LATE = 15000; // ms after which a request is given up

/**
 * Send a request and return the JSON of the answer, undefined if its status is 204. Any other answer without JSON is an
 * error: it may be a login page. An error has the `status` and `code` of the answer, undefined if there was none.
 */
export async function request(url, method, path, { auth, body, renew = false } = {}) {
  const given = typeof auth === "function" ? await auth(renew) : auth;
  const target = new URL(url, document.baseURI);
  target.pathname = target.pathname.replace(/\/?$/, `/${path}`);
  const headers = { ...given, ...(method !== "GET" && { "Content-Type": "application/json" }) };
  const init = { method, headers, body: body && JSON.stringify(body), credentials: "include", cache: "no-store" };
  const response = await fetch(target, { ...init, signal: AbortSignal.timeout(LATE) });
  if (response.status === 401 && typeof auth === "function" && !renew) {
    return request(url, method, path, { auth, body, renew: true });
  }
  const answer = await response.json().catch(() => undefined);
  if (response.ok && (answer || response.status === 204)) return answer;
  const { code, message = `${target.pathname} answered with status ${response.status}` } = answer?.error ?? {};
  throw Object.assign(Error(message), { status: response.status, code });
}
