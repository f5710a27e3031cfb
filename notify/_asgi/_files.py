"""The files of the browser client, read from the package wherever it is installed.

All of them are in one folder, which is the npm package. Each application serves those that talk to it, so that their
own URL says where it is.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from ._reply import Reply
from ._request import Headers, Request

_FOLDER: Final = files("notify").joinpath("web", "client")

_ALL: Final = frozenset(found.name for found in _FOLDER.iterdir() if found.name.endswith((".js", ".d.ts")))

SERVICE_WORKER: Final = "service-worker.js"

DISPATCH_FILES: Final = ("preferences.js", "push.d.ts", "push.js", "request.js", SERVICE_WORKER)
"""What `DispatchApp` serves."""

FILES: Final = tuple(sorted(_ALL - {*DISPATCH_FILES}))
"""What `NotifyApp` serves."""

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


def file_reply(request: Request, name: str) -> Reply:
    """Return the response to a request for a file.

    Its URL has no version, so a cache has to ask whether its copy is still the current one; that costs no body. A
    service worker may serve the whole site, wherever the application is mounted: the page that registers it decides.
    """
    accepted = request.headers.get("accept-encoding", "")
    is_zipped = "gzip" in accepted and not _NO_GZIP.search(accepted) and _LITESTAR not in request.scope
    found = _load(name, is_zipped)
    headers: Headers = [
        (b"etag", found.etag),
        (b"cache-control", b"no-cache"),
        (b"vary", b"Accept-Encoding"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if name == SERVICE_WORKER:
        headers.append((b"service-worker-allowed", b"/"))
    if _is_current(request.headers.get("if-none-match", ""), found.etag):
        return Reply(304, headers=headers)
    headers.append((b"content-type", _TYPES[name[-2:]]))
    if is_zipped:
        headers.append((b"content-encoding", b"gzip"))
    return Reply(200, found.body, headers)


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
