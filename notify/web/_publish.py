"""POST /push: other programs push, with a secret.

The body is one JSON object:

    {"user": "alice", "type": "comment.created", "payload": {"post": 7}}

`user`, `users` (up to 1,000), `topic` or `"broadcast": true` says to whom. With `"list": true` an inbox lists what is
pushed, for `ttl` seconds if that is given; what is published to a topic is always listed. The answer is 202 with `id`
and `type`; the id is null where nothing is stored. Members that are not known are refused, so that a misspelt one is
noticed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import anyio

from notify import Event, NotifyError
from notify._asgi import WITHIN, Receive, Reply, Request, Send, WebError, check_json, parsed_json, read_body, web_error
from notify.adapters import without_stray_cancellation
from notify.inbox import Inbox

from ._site import Site
from ._sse import until_gone_watch

logger = logging.getLogger("notify.web")

MAX_USERS: Final = 1000
"""Users that one request may name."""

MAX_TTL: Final = 10 * 366 * 86_400
"""Seconds: ten years."""

_TARGETS: Final = ("user", "users", "topic", "broadcast")
_MEMBERS: Final = frozenset({*_TARGETS, "type", "payload", "key", "group", "ephemeral", "list", "ttl"})


class PushOrder(NamedTuple):
    """What a request asks for.

    Attributes:
        users: to whom; empty for a broadcast. A topic is one.
        is_single: whether one user was named by `user`, or a topic.
        options: `type`, `payload`, `key`, `group`, and `ephemeral` for `Notifier.push`, or `ttl` for `Inbox.send`.
        listed: whether an inbox lists it.
        is_topic: whether it is published to a topic.
    """

    users: list[str]
    is_single: bool
    options: dict[str, Any]
    listed: bool = False
    is_topic: bool = False

    @property
    def is_ephemeral(self) -> bool:
        """Whether nothing is stored."""
        return bool(not self.users or self.options.get("ephemeral"))


async def push(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /push."""
    secrets = site.publish_secrets
    if not secrets:
        raise WebError(404, "not_found", "there is nothing at this path: pushing by HTTP needs publish_secrets=")
    secrets.check_address(request)
    has_secret = secrets.check_bearer(request)
    body = await read_body(receive, site.options.max_body, site.options.send_timeout)
    message = "" if has_secret else secrets.check_signature(request, body)
    check_json(request)
    order = parsed_order(body)
    if message and order.is_ephemeral:
        if secrets.is_repeated(message):
            answer: dict[str, Any] = {"id": None, "type": order.options["type"]}
        else:
            try:
                answer = await _pushed(site, order, receive)
            except BaseException:
                secrets.forget(message)
                raise
    else:
        if message and order.options["key"] is None:
            order.options["key"] = f"webhook.{sha256(message.encode()).hexdigest()}"
        answer = await _pushed(site, order, receive)
    await Reply.json(answer, 202).send(send, request.response_headers)


async def _pushed(site: Site, order: PushOrder, receive: Receive) -> dict[str, Any]:
    """Push, call the hook, and return the answer."""
    notifier, options = site.notifier, order.options
    if not order.users:
        shown = await notifier.broadcast(options["type"], options["payload"], group=options["group"])
        await _call_hook(site, [shown], receive)
        return {"id": None, "type": shown.type}
    if order.is_single:
        pushed = await _push_one(site, order)
        await _call_hook(site, [] if pushed is None else [pushed], receive)
        return {"id": pushed.id or None if pushed is not None else None, "type": options["type"]}
    send_many = notifier.push_many if not order.listed else _inbox_of(site).send_many
    report = await send_many(order.users, **options)
    await _call_hook(site, [*report.events.values()], receive)
    ids = {user: event.id or None for user, event in report.events.items()}
    failed = {user: _error_of(error) for user, error in report.failed.items()}
    answer = {"id": None, "type": options["type"], "ids": ids, "failed": failed}
    return {**answer, "offline": [*report.offline]} if report.offline else answer


async def _push_one(site: Site, order: PushOrder) -> Event | None:
    (user,) = order.users
    if order.is_topic:
        return await _inbox_of(site).publish(user, **order.options)
    if order.listed:
        return await _inbox_of(site).send(user, **order.options)
    pushed: Event | None = await site.notifier.push(user, **order.options)
    return pushed


def _inbox_of(site: Site) -> Inbox:
    if site.inbox is None:
        raise _unfit("topic and list need an inbox, which this server does not have")
    return site.inbox


async def _call_hook(site: Site, events: Sequence[Event], receive: Receive) -> None:
    """Call `on_push` with each event; what goes wrong in it is logged, since the events are pushed already.

    It ends when it has taken `WITHIN` seconds for all of them, or when the client has left: a client that has no answer
    repeats its request with the same key, and `on_push` is called with the same events.
    """
    hook = site.options.on_push
    if hook is None:
        return
    done = 0
    line = until_gone_watch(receive)
    async with line:
        with anyio.move_on_after(WITHIN):
            for event in events:
                await anyio.lowlevel.checkpoint()  # a plain hook has the same bound
                await _call(hook, event)
                done += 1
    if done < len(events):
        why = "the client has left" if line.aborted else f"it took more than {WITHIN:g} s"
        logger.error(
            "on_push was not called, or has not returned, for %d of %d events of type %s: %s",
            len(events) - done,
            len(events),
            events[0].type,
            why,
        )


async def _call(hook: Callable[[Event], Any], event: Event) -> None:
    async def call() -> None:
        result = hook(event)
        if inspect.isawaitable(result):
            await result

    try:
        await without_stray_cancellation(call)
    except Exception:
        logger.exception("on_push failed for an event of type %s", event.type)


def _error_of(error: NotifyError) -> dict[str, str]:
    shown = web_error(error)
    return {"code": shown.code, "message": shown.message}


def parsed_order(body: bytes) -> PushOrder:
    """Return what the body of a request asks for. Users, type, key and group are checked by the notifier.

    Raises:
        WebError: 400, not JSON; 422, not what is described above.
    """
    found = parsed_json(body)
    if not isinstance(found, dict):
        raise _unfit("the body must be one JSON object")
    if unknown := sorted(found.keys() - _MEMBERS):
        raise _unfit(f"unknown member {unknown[0]!r:.80}; known are {', '.join(sorted(_MEMBERS))}")
    targets = [name for name in _TARGETS if name in found]
    if len(targets) != 1:
        raise _unfit(f"name the target by exactly one of {', '.join(_TARGETS)}")
    if not isinstance(found.get("type"), str):
        raise _unfit("type must be a string")
    (target,) = targets
    options = {name: found.get(name) for name in ("type", "payload", "key", "group")}
    listed = _is_listed(found, target)
    if listed:
        options["ttl"] = _ttl(found)
    else:
        options["ephemeral"] = _flag(found, "ephemeral", target == "broadcast")
    return PushOrder(_users(found, target), target in {"user", "topic"}, options, listed, target == "topic")


def _is_listed(found: dict[str, Any], target: str) -> bool:
    listed = _flag(found, "list", target == "topic")
    if target == "topic" and not listed:
        raise _unfit("events published to a topic are always listed: leave list out")
    if listed and (target == "broadcast" or _flag(found, "ephemeral", False)):
        raise _unfit("an ephemeral event cannot be listed")
    if found.get("ttl") is not None and not listed:
        raise _unfit('ttl needs "list": true')
    return listed


def _flag(found: dict[str, Any], name: str, default: bool) -> bool:
    value = found.get(name, default)
    if not isinstance(value, bool):
        raise _unfit(f"{name} must be true or false")
    return value


def _ttl(found: dict[str, Any]) -> float | None:
    ttl = found.get("ttl")
    is_number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if ttl is not None and not (is_number and 0 < ttl <= MAX_TTL):
        raise _unfit(f"ttl must be a number of seconds of more than 0, and at most {MAX_TTL}")
    return ttl


def _users(found: dict[str, Any], target: str) -> list[str]:
    named = found[target]
    if target in {"user", "topic"}:
        if not isinstance(named, str):
            raise _unfit(f"{target} must be a string")
        return [named]
    if target == "users":
        if not isinstance(named, list) or not all(isinstance(user, str) for user in named):
            raise _unfit("users must be a list of strings")
        if not 0 < len(named) <= MAX_USERS:
            raise _unfit(f"users must name 1 to {MAX_USERS} users, not {len(named)}")
        return named
    if named is not True:
        raise _unfit("broadcast must be true")
    if not found.get("ephemeral", True) or "key" in found:
        raise _unfit("a broadcast is ephemeral, and has no key")
    return []


def _unfit(message: str) -> WebError:
    return WebError(422, "invalid_push", message)
