"""The logs in a file, read by the user that a header names, who may also read `room/7`; `secret` is not a stream."""

from __future__ import annotations

import json
import os

from notify import Notifier
from notify.web import Identity, Request
from notify.web.durable import EVENTS, DurableStreams
from notify_sqlite import SQLiteStreamStore


def authenticate(request: Request) -> Identity | None:
    """Believe a header."""
    user = request.headers.get("x-user")
    return Identity(user, addresses=["room/7", "secret"], session=f"session-of-{user}") if user else None


app = DurableStreams(
    Notifier(SQLiteStreamStore(os.environ["STREAMS_FILE"])),
    authenticate,
    form=lambda log: None if log == "secret" else EVENTS,
    **json.loads(os.environ.get("STREAMS_OPTIONS", "{}")),
)
