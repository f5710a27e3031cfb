"""A scripted server with an inbox: a plain fold of its log, over HTTP, whose answers wait where a test says."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

from tests.web.browser.scripted import Scripted, Seen

USER = "alice"
READ_AGAIN = """(inbox) => {
  let isLoading;
  inbox.subscribe(() => {
    if (isLoading && !inbox.loading) window.readAgain = true;
    isLoading = inbox.loading;
  });
}"""
"""What a page runs to learn that a list, which was loaded before, has been read again: `readAgain`."""
CHANGES = {"notify.seen", "notify.read", "notify.unread", "notify.dismissed", "notify.restored"}
TIMES = ("seen_at", "read_at", "dismissed_at")


def number(event_id: str) -> int:
    return int(event_id.partition("@")[0].rpartition("-")[2])


class InboxServer(Scripted):
    """A `Scripted` server whose log has an inbox, of one user who follows `topics`.

    Attributes:
        topics: logs whose items are listed too; ids come from the one sequence of the log.
        gates: paths whose answers are ready, and are sent when the event is set.
        held: the paths of such answers, in the order of the requests.
        is_late: pages are read when the event is set, not before.
        lost: ids of items that retention has removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.topics: dict[str, str] = {}
        self.gates: dict[str, threading.Event] = {}
        self.held: list[str] = []
        self.is_late = False
        self.lost: set[str] = set()
        self.counts = self.count
        self.routes = {"/inbox": self.list, "/inbox/mark": self.mark, "/following": self.following}

    # -- what a test does ------------------------------------------------------------------------------------------

    def send(self, payload: object = None, *, expires_at: str = "", user: str = USER, **more: Any) -> dict[str, Any]:
        """Append an item."""
        item = {"expires_at": expires_at} if expires_at else {}
        more = {"type": "generic", "timestamp": datetime.now(UTC).isoformat(), **more}
        return self.push(payload, user=user, item=item, **more)

    def change(self, state: str, **payload: Any) -> dict[str, Any]:
        """Append a change, as another device would."""
        return self.push(payload, type=f"notify.{state}", user=USER, timestamp=datetime.now(UTC).isoformat())

    def gate(self, path: str) -> threading.Event:
        """Hold the answers to a path back, from now until the event is set."""
        self.gates[path] = threading.Event()
        return self.gates[path]

    # -- the fold --------------------------------------------------------------------------------------------------

    def fold(self) -> list[dict[str, Any]]:
        """All items, newest first."""
        items: dict[str, dict[str, Any]] = {}
        for event in list(self.log):
            user, group = event["user"], event.get("group")
            if "item" in event and (user == USER or user in self.topics):
                for key, other in list(items.items()):
                    if group and other.get("group") == group and other["user"] == user:
                        del items[key]
                key = event["id"] if user == USER else f"{event['id']}@{user}"
                items[key] = {**event, "id": key, **dict.fromkeys(TIMES)}
            elif event["type"] in CHANGES:
                for item in items.values():
                    if self.hits(event["payload"], item):
                        self.apply(item, event["type"].removeprefix("notify."), event["timestamp"])
        now = datetime.now(UTC).isoformat()
        alive = [item for item in items.values() if item["item"].get("expires_at", "9") > now]
        alive = [item for item in alive if item["id"] not in self.lost]
        return sorted(alive, key=lambda item: number(item["id"]), reverse=True)

    def hits(self, change: dict[str, Any], item: dict[str, Any]) -> bool:
        if "ids" in change:
            return item["id"] in change["ids"]
        if "group" in change:
            return bool(item.get("group") == change["group"])
        end = change["up_to"]
        if "@" in end:
            return item["id"] == end or bool(
                item["user"] == end.partition("@")[2] and number(item["id"]) <= number(end)
            )
        parts = end.split(".")[1:] if end.startswith("m1.") else [USER, end]
        places = dict(zip(parts[::2], parts[1::2], strict=True))
        name = USER if item["user"] == USER else self.topics[item["user"]]
        return name in places and number(item["id"]) <= number(places[name])

    def apply(self, item: dict[str, Any], state: str, at: str) -> None:
        sets = {"seen": TIMES[:1], "read": TIMES[:2], "dismissed": TIMES}.get(state, ())
        clears = {"unread": TIMES[1:], "restored": TIMES[2:]}.get(state, ())
        item |= {name: item[name] or at for name in sets} | dict.fromkeys(clears)

    def place(self) -> str:
        """The position of the inbox."""
        here = self.position(len(self.log))
        return (
            ".".join(["m1", USER, here, *(f"{name}.{here}" for name in self.topics.values())]) if self.topics else here
        )

    def count(self) -> dict[str, Any]:
        active = [item for item in self.fold() if not item["dismissed_at"]]
        unseen, unread = (sum(not item[name] for item in active) for name in TIMES[:2])
        return {"total": len(active), "unseen": unseen, "unread": unread, "position": self.place()}

    # -- HTTP ------------------------------------------------------------------------------------------------------

    async def wait(self, path: str) -> None:
        gate = self.gates.get(path)
        if gate is not None:
            self.held.append(path)
        while gate is not None and not gate.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.005)

    async def list(self, seen: Seen) -> dict[str, Any]:
        if self.is_late:
            await self.wait("/inbox")
        page = self.page(seen.query)
        await self.wait("/inbox")
        return page

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        state = query.get("state", "active")
        kept = {
            "active": lambda item: not item["dismissed_at"],
            "unread": lambda item: not item["dismissed_at"] and not item["read_at"],
            "read": lambda item: not item["dismissed_at"] and item["read_at"],
            "dismissed": lambda item: item["dismissed_at"],
            "all": lambda item: True,
        }[state]
        types, group = query.get("types"), query.get("group")
        items = [item for item in self.fold() if kept(item)]
        items = [item for item in items if not types or item["type"] in types.split(",")]
        items = [item for item in items if not group or item.get("group") == group]
        if before := query.get("before"):
            items = [item for item in items if number(item["id"]) < number(before)]
        limit = int(query.get("limit", 20))
        counts = self.count()
        more = items[limit - 1]["id"] if len(items) > limit else None
        return {"items": items[:limit], "next": more, "counts": counts, "position": counts["position"], "user": USER}

    async def mark(self, seen: Seen) -> dict[str, Any]:
        target = {name: value for name, value in seen.body.items() if name != "state"}
        state = seen.body["state"]
        before = {item["id"]: item for item in self.fold()}
        hit = []
        for key, item in before.items():
            if self.hits(target, item):
                was = {name: item[name] for name in TIMES}
                self.apply(item, state, "now")
                if was != {name: item[name] for name in TIMES}:
                    hit.append(key)
        event = self.change(state, **target) if hit else None
        counts = self.count()
        answer = {"ids": hit, "counts": counts, "position": counts["position"], "event": event and event["id"]}
        await self.wait("/inbox/mark")
        return answer

    async def following(self, seen: Seen) -> dict[str, Any]:
        return {"topics": list(self.topics)}
