"""The process that shows: a stream for each user that it is told of, every event as a line of JSON.

`python watcher.py FILE [--sabotage [ID]]` reads lines of JSON: `{"user": "alice", "after": "0"}` opens a stream. The
end of its input ends it. What it has written is all that it has seen, so whoever kills it knows where to resume.
"""

from __future__ import annotations

import json
import logging
import sys

import anyio
from console import Source, say
from sabotage import LeakyStore

from notify import Notifier
from notify_sqlite import SQLiteStreamStore


async def show(notifier: Notifier, user: str, after: str) -> None:
    """Write the events of one user, those of the past and then those that come."""
    is_live = False
    async with notifier.subscribe(user, after, signals=True) as stream:
        async for event in stream:
            if event.type == "notify.sync":
                is_live = True
                continue
            seen = {"user": user, "id": event.id, "prev": event.prev, "key": event.key, "type": event.type}
            at = event.timestamp.timestamp()
            say(json.dumps({**seen, "payload": event.payload, "pushed_at": at, "live": is_live}))


async def main(*arguments: str) -> None:
    """Open streams as told."""
    file, *sabotage = arguments
    store = LeakyStore(file) if sabotage else SQLiteStreamStore(file)
    if isinstance(store, LeakyStore):
        store.lost = sabotage[-1].removeprefix("--sabotage")
    async with store, Notifier(store) as notifier, anyio.create_task_group() as streams:

        async def open_stream(_: int, line: bytes) -> None:
            order = json.loads(line)
            streams.start_soon(show, notifier, order["user"], order["after"])

        say(json.dumps({"ready": True}))
        await Source("orders", sys.stdin.fileno()).read_lines(open_stream)
        streams.cancel_scope.cancel()


if __name__ == "__main__":
    logging.getLogger("notify").setLevel(logging.ERROR)
    anyio.run(main, *sys.argv[1:])
