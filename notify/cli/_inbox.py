"""`notify inbox`: sends, lists and changes the items of a user's inbox.

The command does not know the retention of the application, so it removes nothing for being old or too many.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, get_args

from .. import Notifier
from ..abc import StreamStore
from ..errors import UsageError
from ..event import check_user
from ..inbox import Change, Counts, Inbox, InboxRetention, Item
from ..inbox.abc import State
from ._console import as_json, meta_of, payload_of, printable, say
from ._console import plain as as_text
from ._inspect import is_prepared
from ._opening import entered
from ._urls import MissingError, nothing_at

ACTIONS: Final = "send, list, counts, read, dismiss or follow"

MARGIN: Final = 0.5
"""Seconds by which the notifier's timeout exceeds the store's, so that the store's more precise error is reported."""

_KEEP_ALL: Final = InboxRetention(max_items=1_000_000, max_age=None, keep_unread=True)


class Adding(Protocol):
    """Adds a command to the command line."""

    def __call__(
        self, name: str, run: Callable[..., Awaitable[int]] | None, text: str, *, into: Any = None, **defaults: Any
    ) -> argparse.ArgumentParser:
        """Return the parser of the new command, which is one of those of `into`."""


def add_inbox(command: Adding, number: Callable[[str], float], group: Any) -> None:
    """Add the commands of an inbox.

    Args:
        command: adds a command.
        number: parses seconds.
        group: makes the place of further commands, in a parser.
    """
    into = group(command("inbox", None, "send, list, read, dismiss and count the items of an inbox"))

    def action(name: str, run: Callable[..., Awaitable[int]], text: str, **defaults: Any) -> argparse.ArgumentParser:
        added = command(name, run, text, into=into, **defaults)
        added.add_argument("user", metavar="USER", help="user id")
        return added

    sending = action("send", send, "send an item to a user and print its id", creates=True)
    sending.add_argument("type", metavar="TYPE", help="event type, for example comment.created")
    sending.add_argument("payload", metavar="JSON", nargs="?", help="payload (default: null)")
    sending.add_argument("--key", help="idempotency key: items with the same key are one item")
    sending.add_argument("--group", metavar="NAME", help="what it is about: it replaces the item of this group")
    sending.add_argument("--ttl", metavar="SECONDS", type=number, help="how long it is listed (default: until removed)")
    sending.add_argument("--meta", metavar="NAME=TEXT", action="append", default=[], help="may be repeated")

    listing = action("list", show, "print a user's items, newest first")
    listing.add_argument("--state", choices=get_args(State), default="active", help="which ones (default: active)")
    listing.add_argument("--limit", metavar="N", type=int, default=20, help="how many (default: 20)")
    listing.add_argument("--before", metavar="ID", help="only those after this one in the list")
    listing.add_argument("--group", metavar="NAME", help="only those of this group")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")

    action("counts", counts, "print how many items a user has")
    for name, run, text in (("read", read, "mark items as read"), ("dismiss", dismiss, "dismiss items")):
        changing = action(name, run, text)
        changing.add_argument("ids", metavar="ID", nargs="*", help="id of an item")
        changing.add_argument("--up-to", metavar="ID", help="every item up to this one, or to a position")
        changing.add_argument("--group", metavar="NAME", help="the items of this group")
        changing.add_argument("--all", action="store_true", help="every item that there is now")
    following = action("follow", follow, "make a user follow a topic, or list what a user follows", creates=True)
    following.add_argument("topic", metavar="TOPIC", nargs="?", help="what to follow")
    following.add_argument("--history", action="store_true", help="list the items that the topic has already, too")
    following.add_argument("--stop", action="store_true", help="unfollow it")


@asynccontextmanager
async def _inbox(options: argparse.Namespace) -> AsyncIterator[Inbox]:
    """Open the store, and check afterwards that there was something to read."""
    check_user(options.user)
    async with entered(options) as store, Notifier(store, timeout=options.timeout + MARGIN) as notifier:
        yield Inbox(notifier, retention=_KEEP_ALL)
        _check_prepared(store, options)


def _check_prepared(store: StreamStore, options: argparse.Namespace) -> None:
    if not options.creates and not is_prepared(store):
        raise MissingError(nothing_at(options.store))


async def send(options: argparse.Namespace) -> int:
    """Send one item."""
    payload = None if options.payload is None else payload_of(options.payload)
    if options.key == "":
        raise UsageError("--key must not be empty: leave it out for an item without a key")
    more: dict[str, Any] = {"group": options.group, "meta": meta_of(options.meta), "key": options.key}
    async with Notifier() as validator:  # validates the arguments before a file is created
        validator.draft(options.user, options.type, payload, **more)
    more["key"] = options.key or secrets.token_hex(12)
    async with _inbox(options) as inbox:
        event = await inbox.send(options.user, options.type, payload, ttl=options.ttl, **more)
    assert event is not None  # only a hook, `offline="drop"` and `connection=` return None
    say(event.id)
    return 0


async def show(options: argparse.Namespace) -> int:
    """Print one page of items."""
    async with _inbox(options) as inbox:
        page = await inbox.list(
            options.user,
            before=options.before,
            limit=options.limit,
            state=options.state,
            group=options.group,
        )
    for item in page.items:
        say(_as_json(item) if options.json else _as_text(item))
    if page.next is not None and not options.json:
        say(f"more: --before {printable(page.next)}")
    return 0


async def counts(options: argparse.Namespace) -> int:
    """Print how many items there are."""
    async with _inbox(options) as inbox:
        found = await inbox.counts(options.user)
    _say_counts(found)
    return 0


async def read(options: argparse.Namespace) -> int:
    """Mark items as read."""
    return await _mark(options, "read")


async def dismiss(options: argparse.Namespace) -> int:
    """Dismiss items."""
    return await _mark(options, "dismissed")


async def _mark(options: argparse.Namespace, state: str) -> int:
    named = [options.ids or None, options.up_to, options.group, options.all or None]
    if sum(each is not None for each in named) != 1:
        raise UsageError("name the items by ID, --up-to, --group or --all, and by exactly one of them")
    async with _inbox(options) as inbox:
        up_to = (await inbox.counts(options.user)).position if options.all else options.up_to
        change = await inbox.mark(options.user, state, ids=options.ids or None, up_to=up_to, group=options.group)
    _say_change(change, state)
    return 0


async def follow(options: argparse.Namespace) -> int:
    """Follow or unfollow a topic, or print what is followed."""
    if options.topic is None and (options.history or options.stop):
        raise UsageError("--history and --stop need a TOPIC")
    async with _inbox(options) as inbox:
        if options.topic is None:
            topics = [topic async for topic in inbox.following(options.user)]
        elif options.stop:
            topics = []
            await inbox.unfollow(options.user, options.topic)
        else:
            topics = []
            await inbox.follow(options.user, options.topic, history=options.history)
    for topic in topics:
        say(printable(topic))
    return 0


def _say_change(change: Change, state: str) -> None:
    say(f"{state} {len(change.ids)}")
    _say_counts(change.counts)


def _say_counts(counts: Counts) -> None:
    say(f"total {counts.total}, unseen {counts.unseen}, unread {counts.unread}")


def _state(item: Item) -> str:
    return "dismissed" if item.dismissed_at is not None else "unread" if item.is_unread else "read"


def _as_text(item: Item) -> str:
    """Format an item for reading: the id, the state, and what `tail` prints after the id."""
    return f"{printable(item.id)} {_state(item)} {as_text(item.event).partition(' ')[2]}"


def _as_json(item: Item) -> str:
    """Format an item for programs: one JSON object on one line, with the times of its states."""
    fields = {**json.loads(as_json(item.event)), "id": item.id}
    for name in ("seen_at", "read_at", "dismissed_at", "expires_at"):
        moment = getattr(item, name)
        fields[name] = None if moment is None else moment.isoformat()
    return printable(json.dumps(fields, ensure_ascii=False))
