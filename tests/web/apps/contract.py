"""A `NotifyApp` for a program that tries everything: whatever waits, waits a fraction of a second."""

from __future__ import annotations

from notify import Notifier
from notify.inbox import Inbox
from notify.web import Identity, NotifyApp, Request
from notify_memory import MemoryStore

SECRET = "the secret of the contract"


def authenticate(request: Request) -> Identity | None:
    """One user, who may read a few topics."""
    topics = ("news", "sports", "a/b?c#ü%41 +")
    return Identity("alice", topics) if request.headers.get("authorization") == f"Bearer {SECRET}" else None


notifier = Notifier(MemoryStore())

app = NotifyApp(
    notifier,
    authenticate,
    inbox=Inbox(notifier),
    lifetime=0.1,
    long_poll=0.1,
    retry=(0.1, 0.2),
    publish_secrets=[SECRET],
    origins=["https://app.example"],
)
