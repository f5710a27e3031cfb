"""The inbox and the log as channels, and what all channels say when an extra is missing."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from notify import BackendUnavailableError, Event, Notifier, PushRejectedError, PushUncertainError, UsageError
from notify.dispatch import (
    Accepted,
    Action,
    Ambiguous,
    Content,
    Gated,
    Outcome,
    Rejected,
    Transient,
)
from notify.dispatch.channels import (
    Breaker,
    Failover,
    InAppChannel,
    LogChannel,
    WebhookChannel,
    WebPushChannel,
    generate_vapid_key,
)
from notify.inbox import Inbox
from notify.testing.dispatch import RecordingChannel
from notify_memory import MemoryStore
from tests.dispatch.jobs import endpoint, job

pytestmark = pytest.mark.anyio


def boxed(*hooks: Any) -> tuple[Inbox, InAppChannel]:
    inbox = Inbox(Notifier(MemoryStore()), hooks=hooks)
    return inbox, InAppChannel(inbox)


async def test_an_item() -> None:
    """It has the names that the browser client shows, and what was submitted; its id is the provider's."""
    inbox, channel = boxed()
    content = Content("Hi", "there", url="/posts/7", icon="/i.png", actions=(Action("open", "Open"),), data={"more": 1})
    outcome = await channel.send(job(content=content))
    (item,) = (await inbox.list("alice")).items
    assert outcome == Accepted(item.id)
    assert item.event.type == "comment.created"
    assert item.event.payload == {
        "title": "Hi",
        "message": "there",
        "action_url": "/posts/7",
        "icon": "/i.png",
        "actions": [{"id": "open", "title": "Open", "url": ""}],
        "data": {"post": 7, "more": 1},
    }
    assert "alert" not in item.event.meta
    assert item.event.meta["notification"] == "n1"


async def test_switched_off_it_is_listed_without_an_alert() -> None:
    """The item is there, and says that no toast is wanted."""
    inbox, channel = boxed()
    assert isinstance(await channel.send(job(alert=False)), Accepted)
    (item,) = (await inbox.list("alice")).items
    assert item.event.meta["alert"] == "off"


async def test_an_item_replaces_and_expires() -> None:
    """The collapse key is a group; the time that is left is the item's."""
    inbox, channel = boxed()
    for number in range(3):
        await channel.send(job(id=str(number), collapse="post:7", expires_at=job().now + timedelta(hours=1)))
    assert len((await inbox.list("alice")).items) == 1
    late = await channel.send(job(expires_at=job().now))
    assert isinstance(late, Rejected)
    assert late.code == "expired"


async def test_a_hook_may_withhold_it() -> None:
    """That is final."""

    class Nothing:
        def before_send(self, draft: Event) -> None:
            return None

    found = await boxed(Nothing())[1].send(job())
    assert isinstance(found, Rejected)
    assert found.code == "withheld"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PushRejectedError("no"), Transient),
        (BackendUnavailableError("no"), Transient),
        (PushUncertainError("no"), Ambiguous),
    ],
)
async def test_a_store_that_fails(error: Exception, kind: type[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not stored, or perhaps: in both cases it is tried again, and stored once."""
    inbox, channel = boxed()

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(inbox, "send", fail)
    assert isinstance(await channel.send(job()), kind)


async def test_an_item_that_is_not_valid() -> None:
    """The message is refused, not the user."""
    found = await boxed()[1].send(job(user="\x00"))
    assert isinstance(found, Rejected)


async def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Id and type; the text only if that is asked for."""
    with caplog.at_level(logging.INFO, logger="notify"):
        await LogChannel().send(job())
        await LogChannel(show=True).send(job())
    assert [record.getMessage() for record in caplog.records] == [
        "notification 0123456789abcdef0123456789abcdef of type comment.created",
        "notification 0123456789abcdef0123456789abcdef of type comment.created: 'A comment' 'Bob wrote: hello'",
    ]


def test_gates() -> None:
    """A push service, or the host of a webhook, is one provider of many; a wrapper has the gates of what it wraps."""
    push = WebPushChannel(generate_vapid_key(), subject="mailto:ops@example.com")
    for channel in (push, WebhookChannel("c2VjcmV0"), Failover(RecordingChannel(), Breaker(push))):
        assert isinstance(channel, Gated)
        assert channel.gate(endpoint("https://push.example.net:8443/a/b?c")) == "https://push.example.net:8443"
        assert channel.gate(endpoint("https://[")) == ""
    assert Failover(RecordingChannel()).gate(endpoint("https://push.example.net/")) == ""


@pytest.mark.parametrize(
    ("module", "made", "extra"),
    [
        ("aiosmtplib", "EmailChannel('h', sender='a@example.com')", "email"),
        ("http_ece", "WebPushChannel('x', subject='mailto:a@example.com')", "webpush"),
        ("httpcore2", "WebPushChannel('x', subject='mailto:a@example.com')", "webpush"),
        ("cryptography.hazmat.primitives.asymmetric", "generate_vapid_key()", "webpush"),
        ("google.auth", "FcmChannel('p', 'c')", "fcm"),
        ("httpcore2", "SmsChannel(HttpSmsGateway(None))", "sms"),
        ("httpcore2", "WebhookChannel()", "webhook"),
    ],
)
def test_the_extra_that_is_missing_is_named(module: str, made: str, extra: str) -> None:
    """All names can be imported; the channel that needs the extra says so when it is made."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from notify.dispatch.channels import *\n"
        f"try: {made}\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("UsageError ")
    assert f"needs the extra {extra}: pip install 'notify-streams[{extra}]'" in done.stdout


def test_a_key_is_checked_before_the_extra() -> None:
    """A wrong argument is reported as such."""
    with pytest.raises(UsageError, match="oversize"):
        WebPushChannel(None, subject="mailto:ops@example.com", oversize="cut")  # type: ignore[arg-type]
