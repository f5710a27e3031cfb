"""The operations of the inbox as commands on a WebSocket: `{"ref": 1, "do": "mark", "state": "read", "ids": [...]}`.

The answer has the members of the HTTP response beside `ref` and `ok`. Errors have the codes of the HTTP endpoints.
"""

from __future__ import annotations

from notify import NotifyError
from notify._asgi import Identity, WebError, web_error

from ._commands import Command, CommandError, answer_with
from ._inbox import OPERATIONS, perform
from ._site import Site


def is_for_inbox(site: Site, command: Command) -> bool:
    """Whether a command is an operation of the inbox, and there is one."""
    return site.inbox is not None and command.do in OPERATIONS


async def answered(site: Site, identity: Identity, command: Command) -> str:
    """Return the frame that answers a command for which `is_for_inbox` is true.

    Raises:
        CommandError: it did not work.

    Order, cancellation, concurrency, cost: as `perform`.
    """
    members = {name: value for name, value in command.arguments.items() if name not in ("ref", "do")}
    try:
        body = await perform(site, identity, command.do, members)
    except (WebError, NotifyError) as error:
        refused = error if isinstance(error, WebError) else web_error(error)
        raise CommandError(refused.code, refused.message, command.ref) from None
    return answer_with(command.ref, body)
