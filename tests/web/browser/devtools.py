"""Chromium by its own protocol: playwright keeps all of its pages active, and what is active cannot be frozen."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.web.pages import ARGUMENTS

PATIENCE = 60.0
"""Seconds within which the browser starts, and answers."""


class Chromium:
    """A browser that is already running."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send one command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while (answer := json.loads(self._socket.recv(PATIENCE))).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def renderers(self) -> dict[int, int]:
        """Return the processor time, in ticks, of each process that runs pages, those of the browser's window aside."""
        processes = self.call("SystemInfo.getProcessInfo")["processInfo"]
        pids = [each["id"] for each in processes if each["type"] == "renderer"]
        return {pid: _ticks(pid) for pid in pids if "--top-chrome-webui" not in _read(pid, "cmdline")}

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """An empty profile; its tabs are closed with it."""
        name = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            yield Profile(self, name)
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=name)


class Profile:
    """Tabs that share storage, locks and workers with each other, and with no other profile."""

    def __init__(self, browser: Chromium, name: str) -> None:
        self._browser = browser
        self._name = name

    def tab(self) -> Tab:
        """Open a tab."""
        target = self._browser.call("Target.createTarget", url="about:blank", browserContextId=self._name)
        session = self._browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Tab(self._browser, session["sessionId"])


class Tab:
    """A tab, in the form that `engines.Tab` describes."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def go(self, url: str) -> None:
        """Load a page."""
        self._browser.call("Page.navigate", self._session, url=url)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self._browser.call("Runtime.evaluate", self._session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def set_lifecycle(self, state: str) -> None:
        """Have the page `frozen`, as a browser does with tabs in the background, or `active`."""
        self._browser.call("Page.setWebLifecycleState", self._session, state=state)

    def process(self) -> int:
        """Return the process id of the page: while the page computes, its process does, again and again."""
        most: list[int] = []
        while len(most) < 3 or len({*most[-3:]}) > 1:  # another one may be starting
            before = self._browser.renderers()
            self.js("(() => { const end = performance.now() + 100; while (performance.now() < end); })()")
            spent = {pid: ticks - before.get(pid, ticks) for pid, ticks in self._browser.renderers().items()}
            first, second = sorted(spent, key=spent.__getitem__, reverse=True)[:2]
            if spent[first] >= 2 * spent[second] + 2:
                most.append(first)
        return most[-1]

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Page.close", self._session)


@contextmanager
def launched(folder: Path) -> Iterator[Chromium]:
    """Run a browser whose files are in this folder."""
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    command = ["/usr/bin/chromium", *ARGUMENTS, *options, "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port, path = _address(folder / "DevToolsActivePort")
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=PATIENCE) as socket:
                yield Chromium(socket)
        finally:
            process.terminate()


def _ticks(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:  # it has just ended
        return ""


def _address(file: Path) -> list[str]:
    end = time.monotonic() + PATIENCE
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return lines
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.02)
