"""`mount`: which application gets a request, and both lifespans in order."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from notify import UsageError
from notify.web import mount

pytestmark = pytest.mark.anyio

App = Callable[..., Awaitable[None]]


class Recorder:
    """An application that notes its scopes and plays a lifespan."""

    def __init__(self, name: str, log: list[str], **faults: Any) -> None:
        self.name, self.log, self.faults = name, log, faults
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] != "lifespan":
            return
        if self.faults.get("unsupported"):
            raise ValueError("HTTP only")
        if self.faults.get("returns"):
            return
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            self.log.append(f"{self.name} {kind}")
            if message := self.faults.get(kind):
                await send({"type": f"lifespan.{kind}.failed", "message": message})
                raise RuntimeError(message)
            scope.setdefault("state", {})[self.name] = kind
            await send({"type": f"lifespan.{kind}.complete"})
            if self.faults.get("dies") or self.faults.get(f"dies at {kind}"):
                raise RuntimeError("in between")
        if self.faults.get("lingers"):
            await anyio.sleep_forever()


def http(path: str, root: str = "", kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "path": path, "root_path": root, "headers": [(b"host", b"h")]}


async def never() -> Any:
    raise AssertionError("nothing is received here")


@pytest.mark.parametrize("given", ["/notify", "notify", "/notify/", "//notify//"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/notify/stream", "", ("/notify/stream", "/notify")),
        ("/notify/stream/", "", ("/notify/stream/", "/notify")),
        ("/notify", "", ("/notify", "/notify")),
        ("/notify/", "", ("/notify/", "/notify")),
        ("/proxy/notify/ws", "/proxy", ("/proxy/notify/ws", "/proxy/notify")),  # as uvicorn has it
        ("/proxy/notify/ws", "/proxy/", ("/proxy/notify/ws", "/proxy/notify")),
        ("/notify/ws", "/proxy", ("/proxy/notify/ws", "/proxy/notify")),  # as hypercorn and FastAPI have it
        ("/notify/notify/ws", "/notify", ("/notify/notify/ws", "/notify/notify")),
        ("/", "", None),
        ("/notifyer", "", None),
        ("/a/notify/stream", "", None),
        ("/proxy/stream", "/proxy", None),
        ("/proxy", "/proxy", None),
        ("/proxynotify/stream", "/proxy", None),
        ("/notify/stream", "/notify", None),  # the proxy's own prefix: the site's path is /stream
        ("*", "", None),
    ],
)
async def test_paths(given: str, kind: str, path: str, root: str, below: tuple[str, str] | None) -> None:
    """What is below the path goes to the mounted application, with `root_path` a prefix of `path`; the rest does not
    change and goes to the other."""
    app, inner = Recorder("app", []), Recorder("inner", [])
    scope = http(path, root, kind)
    await mount(given, app, inner)(scope, never, never)
    if below is None:
        assert app.scopes == []
        assert inner.scopes == [http(path, root, kind)]
    else:
        assert inner.scopes == []
        assert [(seen["path"], seen["root_path"], seen["type"]) for seen in app.scopes] == [(*below, kind)]
    assert scope == http(path, root, kind)


async def test_a_scope_without_root_path() -> None:
    """`root_path` is optional in the specification."""
    app = Recorder("app", [])
    await mount("/notify", app, never)({"type": "http", "path": "/notify/x"}, never, never)
    assert app.scopes[0]["root_path"] == "/notify"


@pytest.mark.parametrize("path", ["", "/", "//", None, 7])
def test_a_path_that_is_refused(path: Any) -> None:
    """A path that leaves nothing for the other application, or is not a path, is refused."""
    with pytest.raises(UsageError, match="expects a path such as '/notify'"):
        mount(path, never, never)


@pytest.mark.parametrize("name", ["app", "inner"])
def test_something_else_is_refused(name: str) -> None:
    """Both must be callable."""
    parts: Any = {"app": never, "inner": never, name: "module:app"}
    with pytest.raises(UsageError, match=rf"mount\({name}=...\) expects an ASGI application, not str"):
        mount("/notify", **parts)


async def lifespan(app: App, state: dict[str, Any], log: list[str]) -> list[Any]:
    """Play the server: return what the application sent."""
    sent: list[Any] = []
    kinds = iter(("startup", "shutdown"))

    async def receive() -> Any:
        kind = next(kinds)
        log.append(f"server {kind}")
        return {"type": f"lifespan.{kind}"}

    async def send(message: Any) -> None:
        log.append(message["type"].removeprefix("lifespan."))
        sent.append(message)

    with anyio.fail_after(5):
        await app({"type": "lifespan", "state": state, "asgi": {"version": "3.0"}}, receive, send)
    return sent


@pytest.mark.parametrize("fault", [{}, {"lingers": True}])
async def test_both_lifespans(fault: dict[str, Any]) -> None:
    """The mounted application starts first and ends last; both write to the state of the server."""
    log: list[str] = []
    state: dict[str, Any] = {}
    await lifespan(mount("/notify", Recorder("app", log, **fault), Recorder("inner", log)), state, log)
    assert log == [
        "server startup", "app startup", "inner startup", "startup.complete",
        "server shutdown", "inner shutdown", "app shutdown", "shutdown.complete",
    ]  # fmt: skip
    assert state == {"app": "shutdown", "inner": "shutdown"}


@pytest.mark.parametrize("fault", ["unsupported", "returns", "dies"])
@pytest.mark.parametrize("whose", ["app", "inner"])
async def test_an_application_without_lifespan(fault: str, whose: str) -> None:
    """It is left out, as Django, which refuses it; so is one that is gone before the end."""
    log: list[str] = []
    parts = {name: Recorder(name, log, **({fault: True} if name == whose else {})) for name in ("app", "inner")}
    sent = await lifespan(mount("/notify", **parts), {}, log)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert {"app shutdown", "inner shutdown"} - set(log) == {f"{whose} shutdown"}


async def test_neither_has_a_lifespan() -> None:
    """The server is answered anyway."""
    log: list[str] = []
    parts = [Recorder(name, log, unsupported=True) for name in ("app", "inner")]
    sent = await lifespan(mount("/notify", *parts), {}, log)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_startup_that_fails() -> None:
    """The failure reaches the server, and what had started has ended by then; what had not is never asked."""
    log: list[str] = []
    app = mount("/notify", Recorder("app", log), Recorder("inner", log, startup="no database"))
    assert await lifespan(app, {}, log) == [{"type": "lifespan.startup.failed", "message": "no database"}]
    assert log == ["server startup", "app startup", "inner startup", "app shutdown", "startup.failed"]
    log.clear()
    app = mount("/notify", Recorder("app", log, startup="no store"), Recorder("inner", log))
    assert await lifespan(app, {}, log) == [{"type": "lifespan.startup.failed", "message": "no store"}]
    assert log == ["server startup", "app startup", "startup.failed"]


@pytest.mark.parametrize("whose", ["app", "inner"])
async def test_a_shutdown_that_fails(whose: str) -> None:
    """The failure of one reaches the server after the other has ended too."""
    log: list[str] = []
    parts = {name: Recorder(name, log, **({"shutdown": "stuck"} if name == whose else {})) for name in ("app", "inner")}
    sent = await lifespan(mount("/notify", **parts), {}, log)
    assert sent[-1] == {"type": "lifespan.shutdown.failed", "message": "stuck"}
    assert log[-3:] == ["inner shutdown", "app shutdown", "shutdown.failed"]


FAILURES = [
    ("unsupported", True, "DEBUG", "has no lifespan"),
    ("startup", "no database", "ERROR", "answered lifespan.startup.failed: no database"),
    ("shutdown", "stuck", "ERROR", "answered lifespan.shutdown.failed: stuck"),
    ("dies at startup", True, "ERROR", "failed in its lifespan, after lifespan.startup.complete"),
    ("dies at shutdown", True, "ERROR", "failed in its lifespan, after lifespan.shutdown.complete"),
]


@pytest.mark.parametrize(("fault", "value", "level", "text"), FAILURES)
@pytest.mark.parametrize("whose", ["app", "inner"])
async def test_what_is_logged(
    caplog: pytest.LogCaptureFixture, whose: str, fault: str, value: Any, level: str, text: str
) -> None:
    """A lifespan that fails is an error, once; that there is none is of no interest, as with servers."""
    log: list[str] = []
    parts = {name: Recorder(name, log, **({fault: value} if name == whose else {})) for name in ("app", "inner")}
    with caplog.at_level(logging.DEBUG, "notify.web"):
        await lifespan(mount("/notify", **parts), {}, log)
    (record,) = [record for record in caplog.records if record.name == "notify.web"]
    assert record.levelname == level
    assert text in record.getMessage()
