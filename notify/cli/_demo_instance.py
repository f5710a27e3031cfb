"""One instance of the demo: a real `notify serve` process, the wire to its clients, and how the demo pushes to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from subprocess import PIPE
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from ..errors import NotifyError, UsageError
from ..testing.faults import FaultProxy

START: Final = 20.0
"""Seconds within which a process has to serve."""

ANSWER: Final = 5.0
"""Seconds that one push may take."""

STOP: Final = 6.0
"""Seconds that a process may take to end, before it is killed."""

_ADDRESS: Final = re.compile(r"serving .* at http://127\.0\.0\.1:(\d+)\s")


class Instance:
    """A process that serves the store, behind a TCP proxy that can be cut. An async context manager.

    Args:
        name: shown on the page.
        arguments: of the `notify` command, without the port.
        environment: with the secrets.
        push_secret: the one for `POST /push`.

    Attributes:
        starts: how often the process has come to serve.
        is_cut: whether the wire is cut.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], push_secret: str) -> None:
        self.name = name
        self.starts = 0
        self.is_cut = False
        self._command = [sys.executable, "-m", "notify", *arguments]
        self._environment = {**os.environ, **environment}
        self._secret = push_secret
        self._port = 0
        self._process: Process | None = None
        self._has_port = False
        self._wire: FaultProxy | None = None
        self._idle: list[http.client.HTTPConnection] = []
        self._stack = AsyncExitStack()
        self._starting = anyio.Lock()

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_serving(self) -> bool:
        """Whether the process is alive and its port accepts connections, which takes a moment after its start."""
        return self._has_port and self.is_running

    @property
    def pid(self) -> int:
        """The process; 0 if there is none."""
        return self._process.pid if self._process is not None and self.is_running else 0

    @property
    def url(self) -> str:
        """Where clients reach it: the near end of the wire, which stays the same."""
        assert self._wire is not None
        return f"http://127.0.0.1:{self._wire.port}"

    async def start(self) -> None:
        """Start the process and wait until it serves; does nothing if it is running.

        Raises:
            NotifyError: it ended, or did not serve in time.
        Cancellation: the process may be running.
        Concurrency: any number of tasks; all but one find it running.
        """
        async with self._starting:
            if not self.is_running:
                await self._start()

    async def _start(self) -> None:
        if self._process is not None:
            await self._process.aclose()  # its pipes
        self._has_port = False
        command = [*self._command, "--port", str(self._port)]
        self._process = await anyio.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=None, env=self._environment, start_new_session=True
        )
        assert self._process.stdout is not None
        text = ""
        with anyio.move_on_after(START):
            async for part in TextReceiveStream(self._process.stdout):
                text += part
                if found := _ADDRESS.search(text):  # pragma: no branch - one line is one read, as a rule
                    self._port = int(found[1])
                    self.starts += 1
                    self._has_port = True
                    return
        await self.kill()
        raise NotifyError(f"the process of instance {self.name} did not start")

    async def kill(self) -> None:
        """End the process without warning, as a crash would, and wait until it has ended, `STOP` seconds at most."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGKILL)
            with anyio.move_on_after(STOP):
                await self._process.wait()

    async def cut(self) -> None:
        """Cut the wire: every connection is reset, new ones are refused."""
        assert self._wire is not None
        if not self.is_cut:
            self.is_cut = True
            await self._wire.refuse()
            await self._wire.reset()

    def mend(self) -> None:
        """Connect the wire again."""
        assert self._wire is not None
        if self.is_cut:
            self._wire.heal()
            self.is_cut = False

    async def push(self, order: Mapping[str, Any]) -> str:
        """Push by `POST /push`, past the wire, and return the id.

        Raises:
            OSError: the instance did not answer, or could not reach its store; the outcome is unknown.
            UsageError: it refused, and would do so again.
        """
        body = json.dumps(order).encode()
        status, answer = await anyio.to_thread.run_sync(self._post, body, abandon_on_cancel=True)
        if status != 202:
            text = f"instance {self.name} answered {status}: {answer[:200]!r}"
            raise UsageError(text) if 400 <= status < 500 else OSError(text)
        return str(json.loads(answer)["id"])

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER)
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/push", body, headers)
            response = connection.getresponse()
            answer = (response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OSError(f"instance {self.name}: {error}") from error
        self._idle.append(connection)
        return answer

    async def __aenter__(self) -> Instance:
        try:
            await self.start()
            self._wire = await self._stack.enter_async_context(FaultProxy("127.0.0.1", self._port))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._end()
        await self._stack.aclose()  # not in the shield: the proxy's own scope is an outer one

    async def _end(self) -> None:
        """End the process; it is killed if it does not end in time."""
        for connection in self._idle:
            connection.close()
        if self._process is None:
            return
        if self.is_running:
            self._process.terminate()
            with anyio.move_on_after(STOP):
                await self._process.wait()
            await self.kill()
        await self._process.aclose()
