"""The harness itself: each server starts, serves both protocols, and is stopped by its pid within a bound."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.web.clients import RawClient
from tests.web.servers import KINDS, WebServer, free_port

SMALL = '''
async def app(scope, receive, send):
    """Answers every request with its path, and nothing else."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"small")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
'''


def test_ports_differ() -> None:
    """A port is given once."""
    assert len({free_port() for _ in range(20)}) == 20


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_each_server_serves_and_ends(kind: str, tmp_path: Path, anyio_backend: str) -> None:
    """It answers once started, and SIGTERM ends it although a connection is kept alive."""
    (tmp_path / "small.py").write_text(SMALL)
    with WebServer(kind, "small:app", tmp_path) as server:
        async with RawClient(server.port, "/hello") as client:
            await client.read_all()
            assert (client.status, client.body, client.complete) == (200, b"/hello", True)
            assert client.headers["x-app"] == "small"
            assert server.stop(signal.SIGTERM) < 5
