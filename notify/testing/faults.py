"""A TCP proxy that misbehaves on demand: delay, black hole, reset, half-close, tiny slices, lost replies.

```python
async with FaultProxy("127.0.0.1", server_port) as proxy:
    ...                                # connect the client to 127.0.0.1, proxy.port
    proxy.down = Faults(delay=0.2)     # replies are late
    proxy.up = Faults(blackhole=True)  # requests vanish; both sides stay connected
    await proxy.reset()                # every connection dies
    proxy.drop_reply(request=b"SET")   # the server obeys, but the client never learns of it
    proxy.heal()
```

"Up" is from client to server, "down" from server to client. What is forwarded is never changed nor reordered.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from ._link import Direction as Direction
from ._link import Faults as Faults
from ._link import Link, Switches, close

__all__ = ["Direction", "FaultProxy", "Faults"]


class FaultProxy:
    """Forwards connections to one server, and injects faults on demand.

    An async context manager for asyncio and trio; leaving it closes every connection at once. Use it from its own
    event loop. What is assigned holds for open connections too, from that moment on.

    Args:
        host: the server; without a port, the path of its Unix socket.
        port: the server's port.
        seed: of the jitter.

    Attributes:
        host: where the proxy listens.
        port: the port that it listens on; it stays the same after `refuse` and `heal`.
        reset_new: new connections are reset before the server learns of them.
        accepted: how many connections there were.
    """

    def __init__(self, host: str, port: int | None = None, *, seed: int = 0) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.reset_new = False
        self.accepted = 0
        self._server = (host, port)
        self._addresses: list[tuple[int, Any]] = []
        self._switches = Switches(seed)
        self._links: set[Link] = set()
        self._listener: socket.socket | None = None
        self._accepting: anyio.CancelScope
        self._tasks: TaskGroup

    @property
    def up(self) -> Faults:
        """The faults from client to server."""
        return self._switches.faults["up"]

    @up.setter
    def up(self, faults: Faults) -> None:
        self._switches.faults["up"] = faults
        self._switches.changed()

    @property
    def down(self) -> Faults:
        """The faults from server to client."""
        return self._switches.faults["down"]

    @down.setter
    def down(self, faults: Faults) -> None:
        self._switches.faults["down"] = faults
        self._switches.changed()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def lost_replies(self) -> int:
        """How many replies `drop_reply` has dropped."""
        return self._switches.dropped

    @property
    def swallowed(self) -> int:
        """How many bytes have vanished in a black hole or a half-closed direction."""
        return self._switches.swallowed

    def heal(self) -> None:
        """End every fault and accept connections again. What was reset or half-closed stays so.

        Raises:
            OSError: after `refuse`, another process took the port.
        """
        self.up = self.down = Faults()
        self.reset_new = False
        self._switches.doomed = 0
        if self._listener is None:
            self._listen()

    async def reset(self) -> None:
        """Reset every open connection, on both sides, and wait until that is done."""
        links = tuple(self._links)
        for link in links:
            link.kill()
        while not self._links.isdisjoint(links):
            await self._switches.change()

    async def refuse(self) -> None:
        """Stop listening, so that new connections are refused until `heal`. Open ones go on."""
        self._accepting.cancel()
        while self._listener is not None:
            await self._switches.change()

    def half_close(self, way: Direction) -> None:
        """End one direction of every open connection; what is still sent in it vanishes."""
        for link in self._links:
            link.cut(way)

    def drop_reply(self, nth: int = 1, *, times: int = 1, request: bytes = b"") -> None:
        """Let requests through, but reset the connection instead of forwarding a reply.

        A reply is the first chunk that the server sends after a chunk from the client.

        Args:
            nth: the reply to begin with, counted over all connections from now on.
            times: how many to drop, one after the other.
            request: count only replies to chunks that contain this.
        """
        self._switches.request, self._switches.spared, self._switches.doomed = request, nth - 1, times
        for link in self._links:
            link.asked = False

    async def __aenter__(self) -> Self:
        host, port = self._server
        if port is None:
            self._addresses = [(socket.AF_UNIX, host)]
        else:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = [(entry[0], entry[4]) for entry in found]
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        # The block's own exception is not shown to the group, which would wrap it into an exception group.
        await self._tasks.__aexit__(None, None, None)

    def _listen(self) -> None:
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = anyio.CancelScope()
        self._tasks.start_soon(self._accept, self._listener)

    async def _accept(self, listener: socket.socket) -> None:
        with listener, self._accepting:
            while True:
                await anyio.wait_readable(listener)
                with suppress(BlockingIOError, ConnectionAbortedError):
                    self._take(listener.accept()[0])
        self._listener = None
        self._switches.changed()

    def _take(self, client: socket.socket) -> None:
        self.accepted += 1
        if self.reset_new:
            close(client, reset=True)
            return
        link = Link(self._switches, client)
        self._links.add(link)
        self._tasks.start_soon(self._serve, link)

    async def _serve(self, link: Link) -> None:
        try:
            await link.run(self._connect)
        finally:
            self._links.remove(link)
            self._switches.changed()

    async def _connect(self) -> socket.socket:
        error = 0
        for family, address in self._addresses:
            server = socket.socket(family, socket.SOCK_STREAM)
            server.setblocking(False)
            try:
                error = server.connect_ex(address)
                if error == errno.EINPROGRESS:
                    await anyio.wait_writable(server)
                    error = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            except BaseException:
                server.close()
                raise
            if not error:
                return server
            server.close()
        raise OSError(error, os.strerror(error))
