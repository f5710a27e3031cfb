"""What all handlers of one application share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from notify import Notifier, UsageError
from notify._asgi import Authenticate, CrossSiteRules, Receive, Request, Send
from notify.adapters import Background

from ._authentication import Authentication
from ._closing import Closing
from ._dialects import Dialect
from ._follow_rule import FollowRule
from ._frames import FrameCache
from ._health import HealthCheck
from ._limits import StreamLimits, Turns
from ._linger import PollLinger
from ._options import WebOptions
from ._secrets import PublishSecrets
from ._ticker import Ticker
from ._tickets import Tickets

TICKETS_PER_STREAM: Final = 5
"""Open tickets that one user may have here for each stream that it may have: all may come back at once, repeatedly."""


class Site:
    """The notifier, the options, and what the handlers of one application keep between requests.

    Args:
        notifier: pushes, and returns the streams.
        authenticate: says who a client is; None where every stream is opened for a user who is known.
        options: checked.

    Attributes:
        has_log: whether the notifier has a store.
        heartbeat: the seconds between heartbeats, encoded as `notify.sync` contains them.
        inbox: whose items clients may list and mark; None without.
        closing: ends the streams when the server shuts down.
        linger: keeps a shutdown noticed between polls.
        limits: counts the streams.
        turns: paces replays.
        frames: what was encoded of the latest events.
        dialect: whose clients events are written for; None for ours.
        aliases: further names of endpoints, which the dialect knows.
        follow_rule: which topics a client may follow.
        ticker: calls connections back.
        tickets: issues and redeems tickets.
        authentication: asks `authenticate`; None without it.
        rules: which other sites may send requests.
        publish_secrets: verifies requests to push.
        health: whether the notifier works.

    """

    def __init__(
        self,
        notifier: Notifier[Any],
        authenticate: Authenticate | None,
        options: WebOptions,
    ) -> None:
        self.notifier = notifier
        self.has_log = notifier.store is not None
        self.options = options
        self.heartbeat = str(options.heartbeat).encode()
        self.inbox = options.inbox
        if self.inbox is not None and self.inbox.notifier is not notifier:
            raise UsageError("inbox= must be an Inbox of the notifier that is the first argument")
        self.closing = Closing(drain=options.drain)
        self.linger = PollLinger(self.closing)
        self.limits = StreamLimits(options.max_streams, options.max_streams_per_user)
        self.turns = Turns()
        self.frames = FrameCache()
        self.dialect = options.dialect if isinstance(options.dialect, Dialect) else None
        self.aliases: Mapping[str, str] = self.dialect.aliases if self.dialect is not None else {}
        self.follow_rule = FollowRule(options.authorize_follow)
        self._start()
        tickets = TICKETS_PER_STREAM * options.max_streams_per_user
        self.tickets = Tickets(notifier.store, options.ticket_lifetime, tickets)
        self.authentication = None if authenticate is None else Authentication(authenticate, self.tickets)
        self.rules = CrossSiteRules(options.origins)
        self.publish_secrets = PublishSecrets(options.publish_secrets)
        self.health = HealthCheck(notifier)

    def _start(self) -> None:
        options = self.options
        self.background = Background("web application")
        self.ticker = Ticker(self.background, min(options.heartbeat, options.send_timeout, options.lifetime))
        self.turns.start(self.ticker)

    async def aclose(self) -> None:
        """End the streams and the tasks. Idempotent; a server that starts again finds everything ready.

        One task goes on if there are streams whose clients do not read: until the last of them was given up.
        """
        self.closing.begin("closed")
        background, ticker = self.background, self.ticker
        self._start()  # before anything is awaited: streams that end, or open just now, need a ticker that runs
        self.ticker.take_over(ticker)
        await background.aclose()


Handler: TypeAlias = Callable[[Site, Request, Receive, Send], Awaitable[None]]
"""Serves one HTTP request; raises WebError, or an error of the library, before it has sent anything."""


def check_notifier(notifier: object) -> Notifier[Any]:
    """Return the notifier.

    Raises:
        UsageError: it is not one, or its store does not support signals.
    """
    if not isinstance(notifier, Notifier):
        raise UsageError(f"the first argument must be a Notifier, not {notifier!r:.80}")
    notifier.subscribe("notify.web", signals=True)
    return notifier
