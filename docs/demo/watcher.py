"""The process that shows events: opens streams as requested, and prints every event as a line of JSON.

`python watcher.py FILE [--sabotage [ID]]` reads lines of JSON: `{"user": "alice", "after": "0"}` opens a stream. It
ends at the end of its input. Its output is complete at any time, so after a kill the demo knows where to resume.
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
    """Print the events of one user: first the stored ones, then new ones."""
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
    """Open a stream for each line of input."""
    file, *sabotage = arguments
    store = LeakyStore(file) if sabotage else SQLiteStreamStore(file)
    if isinstance(store, LeakyStore):
        store.lost = sabotage[-1].removeprefix("--sabotage")
    async with store, Notifier(store) as notifier, anyio.create_task_group() as streams:

        async def open_stream(_: int, line: bytes) -> None:
            request = json.loads(line)
            streams.start_soon(show, notifier, request["user"], request["after"])

        say(json.dumps({"ready": True}))
        await Source("requests", sys.stdin.fileno()).read_lines(open_stream)
        streams.cancel_scope.cancel()


if __name__ == "__main__":
    logging.getLogger("notify").setLevel(logging.ERROR)
    anyio.run(main, *sys.argv[1:])
