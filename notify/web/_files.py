"""The files of the browser client, read from the package wherever it is installed, and GET /health."""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from notify._asgi import Receive, Reply, Request, Send

from ._routing import last_segment
from ._site import Site

_FOLDER: Final = files("notify.web").joinpath("client")

FILES: Final = tuple(sorted(found.name for found in _FOLDER.iterdir() if found.name.endswith((".js", ".d.ts"))))

_TYPES: Final = {"js": b"text/javascript; charset=utf-8", "ts": b"text/plain; charset=utf-8"}
_LITESTAR: Final = "litestar_app"
"""In the scope below Litestar, whose compression compresses compressed files again, and says so only once."""

_NO_GZIP: Final = re.compile(r"gzip *; *q=0(\.0*)?(?![.0-9])")


class File(NamedTuple):
    """A file in one encoding.

    Attributes:
        body: its bytes.
        etag: changes with them.
    """

    body: bytes
    etag: bytes


async def file(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve a file of the browser client.

    Its URL has no version, so a cache has to ask whether its copy is still the current one; that costs no body.
    """
    name = last_segment(request.path)
    accepted = request.headers.get("accept-encoding", "")
    is_zipped = "gzip" in accepted and not _NO_GZIP.search(accepted) and _LITESTAR not in request.scope
    found = _load(name, is_zipped)
    headers = [
        (b"etag", found.etag),
        (b"cache-control", b"no-cache"),
        (b"vary", b"Accept-Encoding"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if _is_current(request.headers.get("if-none-match", ""), found.etag):
        await _send(request, send, 304, b"", headers)
        return
    headers += [(b"content-type", _TYPES[name[-2:]]), (b"content-length", b"%d" % len(found.body))]
    if is_zipped:
        headers.append((b"content-encoding", b"gzip"))
    await _send(request, send, 200, found.body, headers)


async def health(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /health: 200 if every part of the notifier works, 503 if one does not, or the server is ending.

    Anyone may ask, so the answer names the parts and not what is wrong with them: `Notifier.check` returns that.
    """
    if site.closing.begun:
        parts = {"server": "failed"}
    else:
        parts = {part: "ok" if outcome == "ok" else "failed" for part, outcome in (await site.health.parts()).items()}
    is_ok = "failed" not in parts.values()
    reply = Reply.json({"ok": is_ok, "parts": parts}, 200 if is_ok else 503)
    await reply.send(send, request.response_headers)


@cache
def _load(name: str, is_zipped: bool) -> File:
    body = _FOLDER.joinpath(name).read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:32]
    if is_zipped:
        return File(gzip.compress(body, 9, mtime=0), b'"%b-gzip"' % digest.encode())
    return File(body, b'"%b"' % digest.encode())


def _is_current(known: str, etag: bytes) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
    return etag.decode() in tags or "*" in tags


async def _send(request: Request, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers + request.response_headers})
    await send({"type": "http.response.body", "body": body})
