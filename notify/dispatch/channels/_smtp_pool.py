"""Messages over a few connections to one SMTP server, each of which is used again while it is open."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from .._outcomes import Accepted, Outcome
from ._smtp import Dialogue, Envelope, Server, SmtpConnection, SmtpRefusedError, failed, lost
from ._smtp_threads import ThreadSmtp

QUIT_SECONDS: Final = 2.0
"""How long the server may take to say goodbye."""

MAX_MESSAGES: Final = 100
"""Messages over one connection: servers count them, and some refuse more."""


@dataclass(slots=True)
class Kept:
    """A connection that waits for the next message.

    Attributes:
        connection: it is not in use.
        loop: the event loop that it belongs to; None: it can be used in any.
        since: when it was used last.
        messages: how many were sent over it.
    """

    connection: SmtpConnection
    loop: asyncio.AbstractEventLoop | None
    since: float = 0.0
    messages: int = 0


class SmtpPool:
    """Sends messages over at most `limit` connections.

    A kept connection may have been closed by the server. That shows before the message: whatever fails up to MAIL FROM
    on a kept connection is tried once more on a new one.

    Invariants:
        I1: a connection is used by one message, or kept, or closed.

    Args:
        server: how to reach it.
        limit: how many messages are sent at the same time.
        idle: seconds for which an unused connection is kept; 0: each message has a connection of its own.
    """

    def __init__(self, server: Server, limit: int, idle: float) -> None:
        self.server = server
        self._idle = idle
        self._slots = anyio.CapacityLimiter(limit)
        self._kept: list[Kept] = []
        self._is_closed = False
        self._local_name = server.hostname or ""

    async def deliver(self, envelope: Envelope, provider_id: str) -> Outcome:
        """Send one message, and return what became of it. Waiting for a connection counts as connecting."""
        dialogue = Dialogue()
        try:
            with anyio.move_on_after(self.server.timeout):
                async with self._slots:
                    await self._send(envelope, dialogue)
        except Exception as error:
            if dialogue.phase != "done":  # pragma: no branch - else a driver failed to end a connection
                return failed(dialogue, error)
        return Accepted(provider_id) if dialogue.phase == "done" else lost(dialogue.phase, "timeout")

    async def aclose(self) -> None:
        """Close the connections that are kept; one that is in use is closed after its message. Idempotent."""
        self._is_closed = True
        loop, kept = _running_loop(), self._kept
        self._kept = []
        for each in kept:
            if each.loop not in (None, loop):
                each.connection.close()
                continue
            try:
                with anyio.move_on_after(QUIT_SECONDS):
                    await each.connection.quit()
            finally:
                each.connection.close()

    async def _send(self, envelope: Envelope, dialogue: Dialogue) -> None:
        kept = self._take()
        if kept is not None:
            try:
                return await self._over(kept, envelope, dialogue)
            except Exception:
                if dialogue.phase != "sender":
                    raise
            dialogue.phase = "connect"
        made = Kept(*await self._made())
        await self._over(made, envelope, dialogue, is_new=True)

    async def _over(self, kept: Kept, envelope: Envelope, dialogue: Dialogue, *, is_new: bool = False) -> None:
        """Send over one connection, and keep or close it."""
        is_fit = False
        try:
            if is_new:
                await kept.connection.open(dialogue)
            await kept.connection.send(envelope, dialogue)
            is_fit = True
        except SmtpRefusedError as error:
            # After 421 the server closes the connection.
            is_fit = dialogue.phase in ("recipient", "data", "content") and error.code != 421
            raise
        finally:
            kept.messages += 1
            if not is_fit or self._is_closed or not self._idle or kept.messages >= MAX_MESSAGES:
                await self._end(kept, is_fit=is_fit)  # keeps I1
            else:
                kept.since = time.monotonic()
                self._kept.append(kept)

    async def _end(self, kept: Kept, *, is_fit: bool) -> None:
        try:
            if is_fit:
                with anyio.move_on_after(QUIT_SECONDS):
                    await kept.connection.quit()
        finally:
            kept.connection.close()

    def _take(self) -> Kept | None:
        """Return the connection that was used last; close those that are not fit for use any more."""
        now, loop, kept = time.monotonic(), _running_loop(), self._kept
        self._kept = []
        for each in kept:
            if each.loop is loop and each.connection.is_open and now - each.since < self._idle:
                self._kept.append(each)
            else:
                each.connection.close()
        return self._kept.pop() if self._kept else None

    async def _made(self) -> tuple[SmtpConnection, asyncio.AbstractEventLoop | None]:
        """Return a new connection, not open yet, and its loop."""
        if not self._local_name:
            self._local_name = await anyio.to_thread.run_sync(_local_name, abandon_on_cancel=True)
        loop = _running_loop()
        if loop is None:
            return ThreadSmtp(self.server, self._local_name), None
        from ._smtp_asyncio import AsyncioSmtp

        return AsyncioSmtp(self.server, self._local_name), loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of asyncio; None: this is trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _local_name() -> str:
    """Return how this host calls itself. Asking takes seconds where names resolve slowly, so it is asked once."""
    name = socket.getfqdn()
    return name if "." in name else "[127.0.0.1]"
