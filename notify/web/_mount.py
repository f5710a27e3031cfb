"""One ASGI application under a path of another: for frameworks that cannot mount, such as Django and Quart.

A server runs one lifespan, and both applications may have one of their own. `_Lifespan` drives that of one application
from outside, so that the mounted application starts first and ends last: what the other application does at its end may
still push. An application that raises or returns without an answer has no lifespan, which is how servers see it too.
One that has answered has a lifespan: what fails in it is logged as an error.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import anyio

from notify import UsageError
from notify._asgi import ASGIApp, Message, Receive, Scope, Send

_logger: Final = logging.getLogger("notify.web")


def mount(path: str, app: ASGIApp, inner: ASGIApp) -> ASGIApp:
    """Return an ASGI application that serves `app` under `path`, and everything else by `inner`.

    ```python
    application = mount("/notify", NotifyApp(notifier, authenticate), get_asgi_application())  # Django
    app.asgi_app = mount("/notify", NotifyApp(notifier, authenticate), app.asgi_app)  # Quart
    ```

    HTTP, WebSocket and lifespan are passed on. `app` starts before `inner` and ends after it; one that has no lifespan
    is left out.

    Args:
        path: where `app` is served, without what a proxy or an outer mount puts in front of it (`root_path`).
        app: what is mounted, for example a `NotifyApp`.
        inner: the application of the framework.

    Raises:
        UsageError: `path` names no part of the site, or one of the two is not callable.
    """
    where: Any = path
    mounted = "/" + where.strip("/") if isinstance(where, str) else "/"
    if mounted == "/":
        raise UsageError(f"mount(path=...) expects a path such as '/notify', not {path!r}")
    for name, part in (("app", app), ("inner", inner)):
        if not callable(part):
            raise UsageError(f"mount({name}=...) expects an ASGI application, not {part.__class__.__name__}")

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespans([_Lifespan(app, scope), _Lifespan(inner, scope)], receive, send)
        elif (below := _below(scope, mounted)) is not None:
            await app(below, receive, send)
        else:
            await inner(scope, receive, send)

    return dispatch


def _below(scope: Scope, mounted: str) -> Scope | None:
    """Return the scope of a request for what is mounted; None if the request is for something else.

    The path of the result begins with its `root_path`, as the specification has it. Not every server prefixes the path
    (uvicorn does, hypercorn does not), so the `root_path` is taken off only where it is.
    """
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    if path != mounted and not path.startswith(f"{mounted}/"):
        return None
    return {**scope, "path": root + path, "root_path": root + mounted}


class _Lifespan:
    """The lifespan of one application, driven from outside."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self._app = app
        self._scope = {**scope}  # the dictionary of `state` in it is shared, on purpose
        self._tell, self._told = anyio.create_memory_object_stream[Message](math.inf)
        self._answer, self._answers = anyio.create_memory_object_stream[Message](math.inf)
        self._last = ""  # the type of its last answer

    async def run(self) -> None:
        """Run the application's side."""
        try:
            await self._app(self._scope, self._told.receive, self._send)
        except Exception:
            if not self._last:
                _logger.debug("an application of mount() has no lifespan", exc_info=True)
            elif not self._last.endswith(".failed"):  # which is logged
                _logger.exception("an application of mount() failed in its lifespan, after %s", self._last)
        finally:
            self._told.close()
            self._answer.close()

    async def _send(self, message: Message) -> None:
        self._last = message["type"]
        if self._last.endswith(".failed"):
            _logger.error("an application of mount() answered %s: %s", self._last, message.get("message", ""))
        await self._answer.send(message)

    async def ask(self, kind: str) -> Message:
        """Pass `startup` or `shutdown` on, and return the answer; that of an application that is gone is agreement."""
        try:
            self._tell.send_nowait({"type": f"lifespan.{kind}"})
            return await self._answers.receive()
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return {"type": f"lifespan.{kind}.complete"}

    def close(self) -> None:
        """Release the streams."""
        for end in (self._tell, self._told, self._answer, self._answers):
            end.close()


async def _run_lifespans(parts: list[_Lifespan], receive: Receive, send: Send) -> None:
    """Start the parts in order and end them in reverse order; the first failure to start ends those that did."""
    started: list[_Lifespan] = []
    try:
        async with anyio.create_task_group() as tasks:
            for part in parts:
                tasks.start_soon(part.run)
            await receive()
            answer: Message = {}
            for part in parts:
                answer = await part.ask("startup")
                if answer["type"] != "lifespan.startup.complete":
                    break
                started.append(part)
            failed = len(started) < len(parts)
            if not failed:
                await send(answer)
                await receive()
            ends = [await part.ask("shutdown") for part in reversed(started)]
            bad = [end for end in ends if end["type"] != "lifespan.shutdown.complete"]
            await send(answer if failed else (bad or ends)[0])
            tasks.cancel_scope.cancel()  # one that never started, or has answered and lingers
    finally:
        for part in parts:
            part.close()
