"""Reading as a browser does: by HTTP, from the last id on, over servers that restart and connections that end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from random import Random

import anyio

from notify.testing.history import Reader
from tests.web.clients import RawClient, frame_of

SILENCE = 5.0
"""Seconds without a byte, heartbeats included, after which a connection is given up."""

RETURN = 0.3
"""Seconds after which it is tried again, at most: less than a browser is told, since a soak run is short."""


class Browser:
    """One client of one user.

    Args:
        port: of the server.
        restless: whether to leave now and then, by FIN, RST or half-close.
        random: every choice.
    """

    def __init__(self, port: int, restless: bool, random: Random) -> None:
        self.port, self.restless, self.random = port, restless, random

    async def read(self, reader: Reader, start: str, may_go_on: Callable[[], Awaitable[bool]]) -> None:
        """Read one connection to its end, noting what it shows."""
        position = start
        try:
            async with RawClient(self.port, f"/stream?user={reader.user}&last_id={start}") as client:
                while await may_go_on():
                    with anyio.fail_after(SILENCE):
                        more = await client.read()
                    *blocks, rest = client.body.split(b"\n\n")
                    client.body = rest
                    for block in blocks:
                        frame = frame_of(block.decode())
                        if frame.event == "notify.gap":
                            gap = frame.json
                            reader.gap(gap["reason"], gap["from"], position := gap["to"])
                        elif frame.event == "" and frame.data:
                            event = json.loads(frame.data)
                            reader.saw(event["id"], position, event["payload"][0])
                            position = event["id"]
                    if not more:
                        return
                    if self.restless and self.random.random() < 0.02:
                        client.leave(self.random.choice(("rst", "fin")))
                        return
        except (OSError, TimeoutError):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.random.uniform(0.0, RETURN))
