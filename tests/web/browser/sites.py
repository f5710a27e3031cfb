"""Three sites that run the application, the first of which allows the origin of the second, and what their pages try.

The names differ (`127.0.0.1` and `localhost`), so a browser treats them as different sites.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.web.servers import WebServer, free_port


class Sites(NamedTuple):
    """The application's address, and the origins of the two other sites."""

    own: str
    friend: str
    stranger: str

    def noted(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.own}/noted", timeout=30).json()
        return found


@contextmanager
def serving_sites(directory: Path) -> Iterator[Sites]:
    """Run the three applications."""
    ports = [free_port(), free_port()]
    friend, stranger = (f"http://localhost:{port}" for port in ports)
    app, env = "tests.web.apps.sites:app", {"TEST_ORIGINS": json.dumps([friend])}
    with (
        WebServer("uvicorn", app, directory, env=env) as own,
        WebServer("uvicorn", app, directory, port=ports[0]),
        WebServer("uvicorn", app, directory, port=ports[1]),
    ):
        yield Sites(own.url, friend, stranger)


EVENT_SOURCE = """url => new Promise(done => {
    const source = new EventSource(url, {withCredentials: true});
    source.addEventListener('notify.sync', () => { source.close(); done('open'); });
    source.onerror = () => { if (source.readyState === 2) done('refused'); };
})"""

SOCKET = """([url, protocols]) => new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws'), protocols);
    socket.onmessage = event => { socket.close(); done(JSON.parse(event.data).event); };
    socket.onclose = event => done(event.code);
})"""
