"""What a client may do with its inbox: the same operations for HTTP and for commands on a WebSocket.

Each takes the members of a request and returns one JSON object. They act on the inbox of the client's own user, and on
no other: there is no member that names one.

A client follows a topic only if `FollowRule` lets it; it may end each of its follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import anyio

from notify._asgi import Identity, WebError
from notify.inbox import Change, Inbox

from . import _inbox_arguments as arguments
from ._frames import one_line
from ._inbox_values import change_object, counts_value, page_object, topics_object
from ._site import Site

Operation: TypeAlias = Callable[[Site, Inbox, Identity, Mapping[str, Any]], Awaitable[bytes]]


async def perform(site: Site, identity: Identity, name: str, members: Mapping[str, Any]) -> bytes:
    """Return the answer of an operation, a JSON object in one line.

    Args:
        site: the application, with an inbox.
        identity: of the client.
        name: one of `OPERATIONS`.
        members: of the request.

    Raises:
        WebError: the request is not acceptable, or the store has not answered for `send_timeout` seconds.
        NotifyError: what the inbox raises.

    Order: as the calls, for one user on one connection.
    Cancellation: a change may be made or not; it may be repeated.
    Concurrency: any number of tasks.
    Cost: one call of the inbox.
    """
    inbox = inbox_of(site)
    with anyio.move_on_after(site.options.send_timeout):
        return await OPERATIONS[name](site, inbox, identity, members)
    raise WebError(503, "unavailable", "the storage has not answered in time: repeat the request")


def inbox_of(site: Site) -> Inbox:
    """Return the inbox.

    Raises:
        WebError: 404, the application has none.
    """
    inbox = site.inbox
    if inbox is None:
        raise WebError(404, "not_found", "there is nothing at this path: it needs NotifyApp(inbox=...)")
    return inbox


async def _page(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    asked = arguments.listing_of(members)
    return page_object(identity.user, await inbox.list(identity.user, **asked._asdict()))


async def _counts(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    arguments.nothing_of(members)
    return one_line(counts_value(await inbox.counts(identity.user)))


async def _mark(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    return await _marked(inbox, identity, arguments.mark_of(members))


async def _dismiss(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    return await _marked(inbox, identity, arguments.dismissal_of(members))


async def _marked(inbox: Inbox, identity: Identity, mark: arguments.Mark) -> bytes:
    if mark.is_empty:
        return change_object(Change((), await inbox.counts(identity.user), None))
    return change_object(await inbox.mark(identity.user, **mark._asdict()))


async def _follow(site: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    asked = arguments.topic_of(members, history=True)
    await site.follow_rule.check(identity, asked.topic)
    return change_object(await inbox.follow(identity.user, asked.topic, history=asked.history))


async def _unfollow(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    asked = arguments.topic_of(members, history=False)
    return change_object(await inbox.unfollow(identity.user, asked.topic))


async def _following(_: Site, inbox: Inbox, identity: Identity, members: Mapping[str, Any]) -> bytes:
    arguments.nothing_of(members)
    return topics_object([topic async for topic in inbox.following(identity.user)])


OPERATIONS: Final[Mapping[str, Operation]] = {
    "inbox": _page,
    "counts": _counts,
    "mark": _mark,
    "dismiss": _dismiss,
    "follow": _follow,
    "unfollow": _unfollow,
    "following": _following,
}
"""By the names that they have as commands."""

CHANGING: Final = frozenset({"mark", "dismiss", "follow", "unfollow"})
"""Those that change an inbox."""
