"""The web server of a soak run: another kind at each start, always on the same port."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from random import Random
from typing import Self

from tests.parts import untraced_environment
from tests.web.servers import WebServer, free_port

from .scene import Scene

KINDS = ["uvicorn", "uvicorn-h11", "hypercorn", "granian", "gunicorn"]
ENDS_WITHIN = 20.0


class WebServers:
    """One web server over the store of a scene.

    Args:
        scene: whose store it serves.
        directory: for its log.
        random: chooses the kinds.
    """

    def __init__(self, scene: Scene, directory: Path, random: Random) -> None:
        store = {"url": scene.urls["browse"], "space": scene.space, "options": scene.store}
        self._env = {**untraced_environment(), "SOAK_STORE": json.dumps(store)}
        self._directory, self._random = directory / f"{scene.space}-web", random
        self._directory.mkdir()
        self._server: WebServer | None = None
        self.port = free_port()

    def start(self) -> None:
        """Start one, of some kind."""
        kind = self._random.choice(KINDS)
        options = {"env": self._env, "port": self.port}
        self._server = WebServer(kind, "tests.faults.web_app:app", self._directory, **options)  # type: ignore[arg-type]
        self._server.start()

    def end(self) -> None:
        """End it as a deploy does; within its bound."""
        assert self._server is not None
        self._server.stop(signal.SIGTERM, ENDS_WITHIN)
        self._server.kill()  # what it may have left behind

    def kill(self) -> None:
        """SIGKILL, workers included."""
        if self._server is not None:
            self._server.kill()

    def signal(self, number: int) -> None:
        """Send a signal to it and its workers."""
        assert self._server is not None
        assert self._server.process is not None
        os.killpg(self._server.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
