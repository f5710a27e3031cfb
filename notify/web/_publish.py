"""POST /push: other programs push, with a secret.

The body is one JSON object:

    {"user": "alice", "type": "comment.created", "payload": {"post": 7}}

`user`, `users` (up to 1,000) or `"broadcast": true` says to whom. The answer is 202 with `id` and `type`; the id is
null where nothing is stored. Members that are not known are refused, so that a misspelt one is noticed.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import anyio

from notify import Event, NotifyError

from ._reply import Reply, WebError, read_body, web_error
from ._request import Receive, Request, Send
from ._site import Site
from ._sse import until_gone_watch

logger = logging.getLogger("notify.web")

MAX_USERS: Final = 1000
"""Users that one request may name."""

HOOKS_WITHIN: Final = 10.0
"""Seconds that `on_push` may take for all events of one request."""

_MEMBERS: Final = frozenset({"user", "users", "broadcast", "type", "payload", "key", "group", "ephemeral"})
_LATER: Final = frozenset({"topic", "list"})


class PushOrder(NamedTuple):
    """What a request asks for.

    Attributes:
        users: to whom; empty for a broadcast.
        is_single: whether one user was named by `user`.
        options: `type`, `payload`, `key`, `group`, `ephemeral` for `Notifier.push`.
    """

    users: list[str]
    is_single: bool
    options: dict[str, Any]


async def push(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve POST /push."""
    secrets = site.publish_secrets
    if not secrets:
        raise WebError(404, "not_found", "there is nothing at this path: pushing by HTTP needs publish_secrets=")
    secrets.check_address(request)
    has_secret = secrets.check_bearer(request)
    body = await read_body(receive, site.options.max_body, site.options.send_timeout)
    message = "" if has_secret else secrets.check_signature(request, body)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WebError(415, "unsupported_media_type", f"the body must be application/json, not {kind:.80}")
    order = parsed_order(body)
    if message and (not order.users or order.options["ephemeral"]):
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
        shown = await notifier.broadcast(options["type"], options["payload"])
        await _call_hook(site, [shown], receive)
        return {"id": None, "type": shown.type}
    if order.is_single:
        pushed = await notifier.push(order.users[0], **options)
        await _call_hook(site, [] if pushed is None else [pushed], receive)
        return {"id": pushed.id or None if pushed is not None else None, "type": options["type"]}
    report = await notifier.push_many(order.users, **options)
    await _call_hook(site, [*report.events.values()], receive)
    ids = {user: event.id or None for user, event in report.events.items()}
    failed = {user: _error_of(error) for user, error in report.failed.items()}
    answer = {"id": None, "type": options["type"], "ids": ids, "failed": failed}
    return {**answer, "offline": [*report.offline]} if report.offline else answer


async def _call_hook(site: Site, events: Sequence[Event], receive: Receive) -> None:
    """Call `on_push` with each event; what goes wrong in it is logged, since the events are pushed already.

    It ends when it has taken too long for all of them, or when the client has left: a client that has no answer repeats
    its request with the same key, and `on_push` is called with the same events.
    """
    hook = site.options.on_push
    if hook is None:
        return
    done = 0
    line = until_gone_watch(receive)
    async with line:
        with anyio.move_on_after(HOOKS_WITHIN):
            for event in events:
                await anyio.lowlevel.checkpoint()  # a plain hook has the same bound
                await _call(hook, event)
                done += 1
    if done < len(events):
        why = "the client has left" if line.aborted else f"it took more than {HOOKS_WITHIN:g} s"
        logger.error(
            "on_push was not called, or has not returned, for %d of %d events of type %s: %s",
            len(events) - done,
            len(events),
            events[0].type,
            why,
        )


async def _call(hook: Callable[[Event], Any], event: Event) -> None:
    try:
        result = hook(event)
        if inspect.isawaitable(result):
            await result
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
    found = _json(body)
    if not isinstance(found, dict):
        raise _unfit("the body must be one JSON object")
    if later := sorted(_LATER & found.keys()):
        raise _unfit(f"{later[0]!r} needs an inbox, which this server does not have")
    if unknown := sorted(found.keys() - _MEMBERS):
        raise _unfit(f"unknown member {unknown[0]!r:.80}; known are {', '.join(sorted(_MEMBERS))}")
    targets = [name for name in ("user", "users", "broadcast") if name in found]
    if len(targets) != 1:
        raise _unfit("name the target by exactly one of user, users and broadcast")
    ephemeral = found.get("ephemeral", targets == ["broadcast"])
    if not isinstance(ephemeral, bool):
        raise _unfit("ephemeral must be true or false")
    if not isinstance(found.get("type"), str):
        raise _unfit("type must be a string")
    options = {name: found.get(name) for name in ("type", "payload", "key", "group")} | {"ephemeral": ephemeral}
    return PushOrder(_users(found, targets[0]), targets == ["user"], options)


def _users(found: dict[str, Any], target: str) -> list[str]:
    named = found[target]
    if target == "user":
        if not isinstance(named, str):
            raise _unfit("user must be a string")
        return [named]
    if target == "users":
        if not isinstance(named, list) or not all(isinstance(user, str) for user in named):
            raise _unfit("users must be a list of strings")
        if not 0 < len(named) <= MAX_USERS:
            raise _unfit(f"users must name 1 to {MAX_USERS} users, not {len(named)}")
        return named
    if named is not True:
        raise _unfit("broadcast must be true")
    if not found.get("ephemeral", True) or found.keys() & {"key", "group"}:
        raise _unfit("a broadcast is ephemeral, and has neither key nor group")
    return []


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise WebError(400, "invalid_json", "the body is nested too deeply") from None
    except ValueError as error:  # also what is not UTF-8, and integers of thousands of digits
        raise WebError(400, "invalid_json", f"the body is not JSON: {error!s:.200}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _unfit(message: str) -> WebError:
    return WebError(422, "invalid_push", message)
