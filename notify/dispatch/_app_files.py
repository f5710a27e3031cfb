"""The files of the browser client that talk to a `DispatchApp`: push, its service worker, preferences."""

from __future__ import annotations

from collections.abc import Mapping

from notify._asgi import Reply, Request, file_reply

from ._app_site import DispatchSite, Handler, Receive


def file(name: str) -> Handler:
    """Return what serves one file."""

    async def serve(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
        return file_reply(request, name)

    return serve
