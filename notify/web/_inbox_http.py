"""The endpoints of the inbox: a request becomes the members of an operation, whose answer is the response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from notify._asgi import JSON_HEADERS, Receive, Reply, Request, Send, WebError, identify_and_read, read_object

from ._inbox import inbox_of, perform
from ._routing import route_of
from ._site import Site

_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)
_ONCE: Final = ("before", "limit", "state", "group")


async def page(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /inbox."""
    await _serve(site, request, send, "inbox", listing_members(request))


async def counts(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /inbox/counts."""
    await _serve(site, request, send, "counts", {})


async def mark(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /inbox/mark."""
    await _serve(site, request, send, "mark", receive)


async def dismiss(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve DELETE /inbox/{id}."""
    await _serve(site, request, send, "dismiss", {"id": _name(site, request)})


async def dismiss_group(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve DELETE /inbox/group/{group}."""
    await _serve(site, request, send, "dismiss", {"group": _name(site, request)})


async def follow(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /follow."""
    await _serve(site, request, send, "follow", receive)


async def unfollow(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve DELETE /follow/{topic}."""
    await _serve(site, request, send, "unfollow", {"topic": _name(site, request)})


async def following(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /following."""
    await _serve(site, request, send, "following", {})


def _name(site: Site, request: Request) -> str:
    return route_of(request.scope, site.aliases).name


async def _serve(site: Site, request: Request, send: Send, name: str, source: Mapping[str, Any] | Receive) -> None:
    """Answer with an operation.

    Args:
        site: the application.
        request: of the client.
        send: of the request.
        name: of the operation.
        source: the members, or where their JSON is received from.
    """
    inbox_of(site)
    assert site.authentication is not None  # an application that has routes authenticates
    bounds = site.options.max_body, site.options.send_timeout
    identify = partial(site.authentication.identify, request)
    if isinstance(source, Mapping):
        identity, members = await identify(), source
    else:
        identity, receive = await identify_and_read(identify, source, *bounds)
        members = await read_object(request, receive, *bounds)
    body = await perform(site, identity, name, members)
    await Reply(200, body, JSON_HEADERS).send(send, request.response_headers)


def listing_members(request: Request) -> dict[str, Any]:
    """Return the members of a list, from the query; fields that are not known are ignored, as everywhere in a query.

    Raises:
        WebError: 400, `limit` is not a number.
    """
    query = request.query
    members: dict[str, Any] = {name: query[name] for name in _ONCE if query.get(name)}
    named = [*request.query_all("types"), *request.query_all("type")]
    types = [each for value in named for each in value.split(",")]
    if types:
        members["types"] = types
    if "limit" in query:
        if not _NUMBER.fullmatch(query["limit"]):
            raise WebError(400, "bad_request", "limit must be a whole number of 1 to 100")
        members["limit"] = int(query["limit"])
    return members
