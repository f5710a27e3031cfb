"""The files of the browser client, and GET /health, from a real server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from notify import ClosedError, Notifier
from notify._asgi import DISPATCH_FILES, FILES
from notify.web import NotifyApp
from notify.web._health import HealthCheck
from notify_memory import MemoryStore
from tests.web.browser.scripted import serving

CLIENT = Path(str(files("notify.web") / "client"))
LIMITS = {"client.js": 6 * 1024, "components.js": 9 * 1024, "inbox.js": 4352, "bell.js": 8448}
"""Bytes of the modules, compressed. Of the last two, 256 bytes each are for marks and links of a page that is left."""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def site(store: MemoryStore) -> Iterator[str]:
    with serving(NotifyApp(Notifier(store), lambda request: None)) as url:
        yield url


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_the_files_are_small(name: str, limit: int) -> None:
    """What a page loads, compressed as it is served."""
    assert len(gzip.compress((CLIENT / name).read_bytes(), 9, mtime=0)) <= limit


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_served(site: str, name: str) -> None:
    """Whole, with a type that a browser accepts for it, without credentials."""
    response = httpx.get(f"{site}/any/mount/{name}")
    assert response.status_code == 200
    assert response.content == (CLIENT / name).read_bytes()
    kind = "text/javascript" if name.endswith(".js") else "text/plain"
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br", "gzip ; q=0.0, br"])
def test_compression_can_be_declined(site: str, accepted: str) -> None:
    """The file as it is, under another ETag."""
    plain = httpx.get(f"{site}/client.js", headers={"accept-encoding": accepted})
    assert "content-encoding" not in plain.headers
    assert plain.content == (CLIENT / "client.js").read_bytes()
    assert plain.headers["etag"] != httpx.get(f"{site}/client.js").headers["etag"]
    assert plain.headers["vary"] == "Accept-Encoding"


def test_a_copy_that_is_current_is_not_sent_again(site: str) -> None:
    """304 for the ETag, in whatever list; a body for another one."""
    etag = httpx.get(f"{site}/client.js").headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        response = httpx.get(f"{site}/client.js", headers={"if-none-match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
    assert httpx.get(f"{site}/client.js", headers={"if-none-match": '"other"'}).status_code == 200


def test_head(site: str) -> None:
    """The head of what GET sends."""
    head, whole = httpx.head(f"{site}/client.js"), httpx.get(f"{site}/client.js")
    assert head.content == b""
    for name in ("content-type", "content-length", "etag", "content-encoding"):
        assert head.headers[name] == whole.headers[name]


def test_the_package_names_its_files() -> None:
    """What is published to npm is what the applications serve, and its name is that of the distribution."""
    served = {*FILES, *DISPATCH_FILES}
    package = json.loads((CLIENT / "package.json").read_text())
    assert package["name"] == "notify-streams"
    assert sorted(package["files"]) == sorted(served)
    targets = [
        each
        for entry in package["exports"].values()
        for each in (entry.values() if isinstance(entry, dict) else [entry])
    ]
    assert {target.removeprefix("./") for target in targets} <= served
    assert {path.name for path in CLIENT.iterdir()} == {*served, "package.json"}


def test_health(site: str) -> None:
    """200 and the parts; nothing else is needed."""
    response = httpx.get(f"{site}/health")
    assert response.status_code == 200, response.text
    assert response.json()["ok"] is True
    assert set(response.json()["parts"].values()) == {"ok"}
    assert response.headers["cache-control"] == "no-store"
    head = httpx.head(f"{site}/health")
    assert (head.status_code, head.content) == (200, b"")


def test_health_says_what_fails_but_not_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 and the name of the part; the text of the error could name hosts."""
    store = MemoryStore()

    async def head(user: str) -> str:
        raise OSError("cannot reach 10.0.0.1")

    monkeypatch.setattr(store, "head", head)
    with serving(NotifyApp(Notifier(store), lambda request: None)) as url:
        response = httpx.get(f"{url}/health")
    assert response.status_code == 503
    assert response.json()["ok"] is False
    assert response.json()["parts"]["store"] == "failed"
    assert "10.0.0.1" not in response.text


def test_health_fails_while_the_server_ends(store: MemoryStore) -> None:
    """So that no new client is sent here."""
    app = NotifyApp(Notifier(store), lambda request: None)
    with serving(app) as url:
        app.begin_shutdown()
        response = httpx.get(f"{url}/health")
    assert (response.status_code, response.json()) == (503, {"ok": False, "parts": {"server": "failed"}})


class Counting:
    """Stands in for a notifier: counts the checks."""

    def __init__(self) -> None:
        self.checks = 0
        self.error: Exception | None = None

    async def check(self) -> Any:
        self.checks += 1
        await anyio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return type("Verdict", (), {"parts": {"store": "ok"}})


@pytest.mark.anyio
async def test_many_requests_are_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same time and shortly after: one check; then the next one."""
    notifier = Counting()
    check = HealthCheck(notifier)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(check.parts)
    assert await check.parts() == {"store": "ok"}
    assert notifier.checks == 1
    monkeypatch.setattr(check, "_until", 0.0)  # a second later
    await check.parts()
    assert notifier.checks == 2


@pytest.mark.anyio
async def test_a_check_that_was_cancelled_or_failed_is_repeated() -> None:
    """The next caller is not told an old verdict, and does not wait for a caller that has gone."""
    notifier = Counting()
    check = HealthCheck(notifier)  # type: ignore[arg-type]
    with anyio.CancelScope() as scope:
        scope.cancel()
        await check.parts()
    notifier.error = ClosedError("closed")
    with pytest.raises(ClosedError):
        await check.parts()
    notifier.error = None
    assert await check.parts() == {"store": "ok"}
