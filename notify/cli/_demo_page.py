"""The web page of the demo, and the requests that it makes. For this host only: it kills processes, without a login."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib.resources import files
from typing import Any, Final

import anyio

from ..errors import NotifyError
from ._demo_instance import Instance
from ._demo_ledger import Ledger
from ._demo_traffic import Traffic

MAX_BODY: Final = 1 << 20
HEADER: Final = "x-notify-demo"
"""Sent with each request that changes something. Another site's page cannot send it without being refused first."""

_FILES: Final = {
    "": "demo/index.html",
    **{name: f"demo/{name}" for name in ("demo.css", "demo.js", "checker.js")},
    **{name: f"client/{name}" for name in ("client.js", "components.js", "inbox.js", "bell.js")},
}
_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_MAX_TEXT: Final = 500

Message = MutableMapping[str, Any]


class BadRequestError(NotifyError):
    """The page asked for something that does not exist."""


class DemoApp:
    """An ASGI application.

    Args:
        authority: host and port under which the page is opened; requests to another name are redirected to it, so that
            a foreign name that resolves to this host gets nothing.
        instances: by name.
        ledger: what was pushed and shown.
        traffic: pushes.
        users: the id of each user, with the name that the page shows and a token.
        reader: the user whose inbox is shown, likewise; her events are not part of the history that is checked.
    """

    def __init__(
        self,
        authority: str,
        instances: Mapping[str, Instance],
        ledger: Ledger,
        traffic: Traffic,
        users: Mapping[str, tuple[str, str]],
        reader: tuple[str, str, str],
    ) -> None:
        self._authority = authority
        self._instances = instances
        self._ledger = ledger
        self._traffic = traffic
        self._users = users
        self._reader = reader
        self._calm: dict[str, bool] = {}
        self._posts: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, kind, body, more = await self._answer(scope, receive)
            headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
            headers += [(b"cache-control", b"no-store"), (b"content-security-policy", self._policy()), *more]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await receive()
            await send({"type": "websocket.close"})

    def _policy(self) -> bytes:
        wires = " ".join(each.url for each in self._instances.values())
        return f"default-src 'self'; connect-src 'self' {wires}; img-src 'self' data:; frame-ancestors 'none'".encode()

    async def _answer(self, scope: Message, receive: Any) -> tuple[int, str, bytes, list[tuple[bytes, bytes]]]:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix("/")
        if headers.get("host") != self._authority:
            return 307, "text/plain", b"", [(b"location", f"http://{self._authority}/".encode())]
        try:
            if scope["method"] == "POST" and HEADER in headers:
                asked = json.loads(await _body(receive))
                answer = await self._posts[path.removeprefix("api/")](asked)
                return 200, "application/json", json.dumps(answer).encode(), []
            if path in _FILES:
                kind = _KINDS[_FILES[path].rpartition(".")[2]]
                body = files("notify.web").joinpath(_FILES[path]).read_bytes()
                return 200, f"{kind}; charset=utf-8", body, []
        except (BadRequestError, LookupError, TypeError, ValueError, RecursionError) as error:
            return 400, "application/json", json.dumps({"error": str(error)}).encode(), []
        except NotifyError as error:
            return 502, "application/json", json.dumps({"error": str(error)}).encode(), []
        return 404, "text/plain", b"not found", []

    # -- what the page asks for: `_do_NAME` answers POST /api/NAME

    async def _do_open(self, asked: dict[str, Any]) -> Any:
        since = len(self._ledger.pushed)  # before the ends of the logs are read: the page skips what lies before those
        devices = [(f"{name}/{user}", user) for name in self._instances for user in self._users]
        starts = await self._ledger.open(str(asked["page"]), devices)
        users = [
            {"id": user, "name": name, "token": token, "start": starts[user]}
            for user, (name, token) in self._users.items()
        ]
        wires = [{"name": each.name, "url": each.url} for each in self._instances.values()]
        reader = dict(zip(("id", "name", "token"), self._reader, strict=True))
        return {"users": users, "instances": wires, "since": since, "rate": self._traffic.rate, "reader": reader}

    async def _do_item(self, asked: dict[str, Any]) -> Any:
        """Send an item to the inbox that the page shows."""
        payload = {name: str(asked[name])[:_MAX_TEXT] for name in ("title", "message", "type") if asked.get(name)}
        order = {"user": self._reader[0], "type": "generic", "payload": payload, "list": True}
        if asked.get("group"):
            order["group"] = str(asked["group"])[:_MAX_TEXT]
        for instance in self._instances.values():
            if instance.is_serving:
                try:
                    return {"id": await instance.push(order)}
                except OSError:
                    continue
        raise BadRequestError("no instance is running")

    async def _do_poll(self, asked: dict[str, Any]) -> Any:
        """Take what the page has shown since the last time, and say what has happened since."""
        page = str(asked["page"])
        if not await self._ledger.shown(page, asked["shown"], asked["gaps"]):
            return {"reload": True}
        self._calm[page] = bool(asked["calm"])
        verdict = await self._ledger.verdict(is_calm=self._calm[page])
        since = int(asked["since"])
        pushed = self._ledger.pushed[since : since + 2000]
        return {
            "instances": [_state(each) for each in self._instances.values()],
            "verdict": verdict,
            "pushed": pushed,
            "since": since + len(pushed),
            "waiting": self._ledger.in_flight,
            "rate": self._traffic.rate,
        }

    async def _do_push(self, asked: dict[str, Any]) -> Any:
        users = list(self._users) if asked["user"] == "*" else [asked["user"]]
        if not set(users) <= self._users.keys():
            raise BadRequestError("no such user")
        names = ("title", "message", "type", "action_url")
        payload = {name: str(asked[name])[:_MAX_TEXT] for name in names if asked.get(name)}
        through: set[str] = set()

        async def push(user: str) -> None:
            through.add(await self._traffic.push(user, "generic", payload, via=str(asked.get("via", ""))))

        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(push, user)
        return {"through": sorted(through)}

    async def _do_job(self, asked: dict[str, Any]) -> Any:
        if asked["user"] not in self._users:
            raise BadRequestError("no such user")
        self._traffic.start_job(asked["user"], str(asked.get("via", "")))
        return {}

    async def _do_rate(self, asked: dict[str, Any]) -> Any:
        self._traffic.set_rate(float(asked["rate"]))
        return {}

    async def _do_kill(self, asked: dict[str, Any]) -> Any:
        await self._instances[asked["name"]].kill()
        return {}

    async def _do_start(self, asked: dict[str, Any]) -> Any:
        await self._instances[asked["name"]].start()
        return {}

    async def _do_cut(self, asked: dict[str, Any]) -> Any:
        await self._instances[asked["name"]].cut()
        return {}

    async def _do_mend(self, asked: dict[str, Any]) -> Any:
        self._instances[asked["name"]].mend()
        return {}


def _state(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "pid": instance.pid,
        "running": instance.is_running,
        "serving": instance.is_serving,
        "cut": instance.is_cut,
        "starts": instance.starts,
    }


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise BadRequestError("the body is too large")
        if not message.get("more_body"):
            return body


async def _live(receive: Callable[[], Awaitable[Message]], send: Any) -> None:
    for name in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{name}.complete"})
