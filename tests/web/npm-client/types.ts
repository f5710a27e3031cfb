// How the client is used in TypeScript: checked by the compiler, and never run.
import { clients, connect, type Client, type End, type Gap, type Inbox, type Status, type Sync } from "notify-streams";
import { PushError, webPush, type PushState, type WebPush } from "notify-streams/push";
import { useInbox, useNotify } from "notify-streams/react";

const client: Client = connect("/notify", {
  auth: async (renew) => ({ Authorization: renew ? "new" : "old" }),
  transports: ["fetch", "websocket"],
  share: "alice",
  lastId: "0",
  storage: localStorage,
  withCredentials: true,
  when: "visible",
});
connect();
connect(new URL("https://example.com/notify"), { auth: "a ticket" });
connect("/notify", { auth: () => null, storage: { getItem: () => null, setItem: () => {} } });

const remove: () => void = client.on<{ post: number }>("comment.created", ({ payload, id }) => {
  const post: number = payload.post;
  const position: string | undefined = id;
  console.log(post, position);
});
remove();
client.on("*", ({ type, user, timestamp, group, meta }) => console.log(type, user, timestamp, group, meta));
client.on("status", (status) => {
  const known: Status = status;
  console.log(known);
});
client.on("gap", (gap: Gap) => console.log(gap.reason, gap.from, gap.to, gap.user));
client.on("sync", (sync: Sync) => console.log(sync.position));
client.on("end", (end: End) => console.log(end.reason, end.retry));
document.addEventListener("notify", (event) => {
  event.preventDefault();
  console.log(event.detail.type, event.client.lastId);
});
document.addEventListener("notify-status", (event) => console.log(event.detail === "paused"));
for (const each of clients) each.close();

const { status, connected, events, last } = useNotify<{ title: string }>("/notify", { key: 1, limit: 3, types: ["a"] });
const titles: string[] = events.map(({ payload }) => payload.title);
console.log(status, connected, titles, last?.payload.title);
useNotify(client);

const inbox: Inbox<{ title: string }> = client.inbox({ filter: { state: "unread", types: ["order"], group: "g" }, limit: 50 });
client.inbox();
client.inbox({ filter: "dismissed" });
client.inbox({ filter: (item) => item.read_at === null });
inbox.subscribe(({ items, counts }) => console.log(items[0]?.payload.title, counts.unread))();
inbox.dismiss(inbox.items[0]!).then(({ ids, event }) => console.log(ids.length, event));
inbox.read(["1-0", inbox.items[0]!]);
inbox.restore({ group: "g" });
inbox.readUpTo();
inbox.seen(inbox.counts.position);
client.on("notify.counts", ({ total }) => console.log(total + 1));
const list = useInbox<{ title: string }>(client, { filter: "unread", limit: 5, key: 2 });
list.read(list.items.map(({ id }) => id));

// @ts-expect-error: not a state
client.inbox({ filter: "gone" });
// @ts-expect-error: counts are told, never set
inbox.counts.total = 3;

// @ts-expect-error: not a transport
connect("/notify", { transports: ["smoke"] });
// @ts-expect-error: a status is not a number
client.on("status", (status: number) => status);
// @ts-expect-error: read only
client.lastId = "0";
// @ts-expect-error: not an option
connect("/notify", { reconnect: true });

const push: WebPush = webPush("/notifications", {
  auth: async (renew) => ({ Authorization: renew ? "new" : "old" }),
  user: "alice",
  worker: navigator.serviceWorker.ready,
});
webPush(undefined, { auth: { Authorization: "x" }, worker: "/sw.js" });
push.state().then((found: PushState) => console.log(found === "install"));
push.subscribe().catch((error: unknown) => {
  if (error instanceof PushError) console.log(error.code === "gesture", error.status, error.message);
});
push.unsubscribe();
document.addEventListener("notify-push", (event) => {
  event.detail.body = event.detail.title;
  event.preventDefault();
});
document.addEventListener("notify-push-state", ({ detail }) => console.log(detail === "subscribed"));

// @ts-expect-error: not a state
push.state().then((found) => found === "granted");
