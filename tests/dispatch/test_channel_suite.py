"""The shipped suites on our own channels, and on channels that break what they promise."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from notify import Notifier
from notify.dispatch import Channel, Endpoint, Job
from notify.dispatch.channels import (
    Breaker,
    EmailChannel,
    Failover,
    FcmChannel,
    HttpSmsGateway,
    InAppChannel,
    LogChannel,
    Rate,
    RateLimited,
    SmsChannel,
    WebhookChannel,
    WebPushChannel,
    generate_vapid_key,
)
from notify.inbox import Inbox
from notify.testing.dispatch import ChannelSuite, PushService, RecordingChannel, RemoteChannelSuite
from notify_memory import MemoryStore
from tests.dispatch.fake_http import FakeServer, Reply
from tests.dispatch.test_channel_email import Mailbox, serving

ROOT = Path(__file__).parent.parent.parent


class TestRecordingChannel(ChannelSuite):
    """The fake keeps the promises of what it stands in for."""

    async def make(self) -> Channel:
        return RecordingChannel()

    async def arrived(self, channel: Channel) -> Sequence[str]:
        assert isinstance(channel, RecordingChannel)
        return [job.id for job in channel.sent(user="alice")]

    def endpoint(self) -> Endpoint | None:
        return Endpoint("alice", "test", "address-hush")


class TestWrapped(TestRecordingChannel):
    """Wrappers keep the promises of what they wrap."""

    async def make(self) -> Channel:
        self.inner = RecordingChannel()
        return Failover(Breaker(RateLimited(self.inner, Rate(1000))))

    async def arrived(self, channel: Channel) -> Sequence[str]:
        return await super().arrived(self.inner)


class TestInAppChannel(ChannelSuite):
    """The inbox: a repeated message is one item."""

    async def make(self) -> Channel:
        self.inbox = Inbox(Notifier(MemoryStore()))
        return InAppChannel(self.inbox, payload=lambda job: {"id": job.id, "title": job.content.title})

    async def arrived(self, channel: Channel) -> Sequence[str]:
        page = await self.inbox.list("alice", limit=50)
        return [item.event.payload["id"] for item in reversed(page.items)]


class TestLogChannel(ChannelSuite):
    """A line for each message."""

    async def make(self) -> Channel:
        self.lines: list[str] = []
        logger = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        return LogChannel(logger)

    async def arrived(self, channel: Channel) -> Sequence[str]:
        return [line.split()[1] for line in self.lines]


class Remote(RemoteChannelSuite):
    """A receiver over HTTP."""

    secrets = ("key-hush",)
    path = ""

    @pytest.fixture(autouse=True)
    def far_side(self, server: FakeServer) -> None:
        server.reset()
        self.server = server

    @abstractmethod
    def channel(self, url: str, **options: Any) -> Channel:
        """Return the channel, which reaches its provider at this URL."""

    async def make(self) -> Channel:
        return self.channel(self.server.url)

    async def make_unreachable(self) -> Channel:
        with FakeServer().running() as gone:
            return self.channel(gone.url)

    async def make_silent(self) -> Channel:
        self.server.answer(Reply(how="hang"), path=self.path)
        return self.channel(self.server.url, timeout=1.0)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer().running() as found:
        yield found


class TestWebhookChannel(Remote):
    """Webhooks."""

    secrets = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",)

    def channel(self, url: str, **options: Any) -> Channel:
        self.url = url
        return WebhookChannel(self.secrets[0], allow_private=True, **options)

    def endpoint(self) -> Endpoint | None:
        return Endpoint("alice", "test", f"{getattr(self, 'url', self.server.url)}/hooks/hush")

    async def arrived(self, channel: Channel) -> Sequence[str]:
        return [request.headers["webhook-id"] for request in self.server.requests]

    async def make_unconfigured(self) -> Channel | None:
        return WebhookChannel()


@pytest.mark.anyio
async def test_a_channel_that_cannot_be_unconfigured() -> None:
    """Such a one does not define `make_unconfigured`, and passes."""

    class Plain(TestWebhookChannel):
        make_unconfigured = RemoteChannelSuite.make_unconfigured

    suite = Plain()
    assert await suite.make_unconfigured() is None
    await suite.test_not_configured()


class TestSmsChannel(Remote):
    """SMS."""

    def channel(self, url: str, **options: Any) -> Channel:
        return SmsChannel(HttpSmsGateway(url, self.secrets[0]), allow_private=True, max_segments=500, **options)

    def endpoint(self) -> Endpoint | None:
        return Endpoint("alice", "test", "+436601234567")

    async def arrived(self, channel: Channel) -> Sequence[str]:
        return [request.json["id"] for request in self.server.requests]

    async def make_unconfigured(self) -> Channel | None:
        return SmsChannel(HttpSmsGateway(None))


class TestFcmChannel(Remote):
    """FCM: what the fake has logged in for."""

    path = "/v1/projects/demo/messages:send"
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    secrets = (key.decode(), "access-hush")

    def channel(self, url: str, **options: Any) -> Channel:
        self.server.answer(Reply(200, {"access_token": "access-hush", "expires_in": 3600}), path="/token")
        account = {"private_key": self.key.decode(), "client_email": "a@b.c", "token_uri": f"{self.server.url}/token"}
        return FcmChannel("demo", account, base=url, allow_private=True, **options)

    def endpoint(self) -> Endpoint | None:
        return Endpoint("alice", "test", "token-hush", "token")

    async def arrived(self, channel: Channel) -> Sequence[str]:
        posted = [request.json["message"] for request in self.server.requests if request.path == self.path]
        return [message["data"]["id"] for message in posted]

    async def make_unconfigured(self) -> Channel | None:
        return FcmChannel(None, None)


@pytest.fixture(scope="module")
def push_service() -> Iterator[PushService]:
    with PushService().running() as found:
        yield found


class TestWebPushChannel(RemoteChannelSuite):
    """Web push, to the strict service."""

    secrets = (generate_vapid_key(),)

    @pytest.fixture(autouse=True)
    def far_side(self, push_service: PushService) -> None:
        push_service._replies.clear()
        self.service = push_service
        self.browser = push_service.subscribe()

    async def make(self, **options: Any) -> Channel:
        return WebPushChannel(self.secrets[0], subject="mailto:ops@example.com", allow_private=True, **options)

    def endpoint(self) -> Endpoint | None:
        return self.browser.endpoint("alice")

    async def arrived(self, channel: Channel) -> Sequence[str]:
        return [json.loads(message.content)["id"] for message in self.browser.received]

    async def make_unreachable(self) -> Channel:
        with PushService().running() as gone:
            self.browser = gone.subscribe()
        return await self.make()

    async def make_silent(self) -> Channel:
        self.service.answer(*[0] * 2)
        return await self.make(timeout=1.0)

    async def make_unconfigured(self) -> Channel | None:
        return WebPushChannel(None, subject="mailto:ops@example.com")


@pytest.fixture(scope="module")
def mail_server() -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    with serving(mailbox, enable_SMTPUTF8=True) as port:
        yield mailbox, port


class TestEmailChannel(RemoteChannelSuite):
    """E-mail, to a real server."""

    secrets = ("password-hush",)

    @pytest.fixture(autouse=True)
    def far_side(self, mail_server: tuple[Mailbox, int]) -> None:
        self.mailbox, self.port = mail_server
        self.mailbox.__init__()  # type: ignore[misc]

    async def make(self, **options: Any) -> Channel:
        settings = {"sender": "Example <no-reply@example.com>", "encryption": "none", **options}
        return EmailChannel("127.0.0.1", settings.pop("port", self.port), **settings)

    def endpoint(self) -> Endpoint | None:
        return Endpoint("alice", "test", "bob@example.org")

    async def arrived(self, channel: Channel) -> Sequence[str]:
        found = [message_from_bytes(raw)["Message-ID"] for raw in self.mailbox.raw]
        return [each.strip("<>").partition("@")[0] for each in found]

    async def make_unreachable(self) -> Channel:
        with serving(Mailbox()) as port:
            pass
        return await self.make(port=port)

    async def make_silent(self) -> Channel:
        self.mailbox.answers["data"] = "hang"
        return await self.make(timeout=1.0)

    async def make_unconfigured(self) -> Channel | None:
        return EmailChannel(None, sender="no-reply@example.com")


BROKEN = """
import logging
from notify.dispatch import Accepted, Ambiguous, Endpoint, Misconfigured
from notify.testing.dispatch import ChannelSuite, RecordingChannel

class Raises(RecordingChannel):
    async def send(self, job):
        if not job.content.title:
            raise ValueError("no title")
        return await super().send(job)

class Twice(RecordingChannel):
    async def send(self, job):
        await super().send(job)
        return await super().send(job)

class Loses(RecordingChannel):
    async def send(self, job):
        return Accepted()

class Talks(RecordingChannel):
    async def send(self, job):
        logging.getLogger("notify").info("to %s", job.endpoint.address)
        return await super().send(job)

class Blames(RecordingChannel):
    async def send(self, job):
        return Misconfigured("?") if not job.endpoint.address.strip() else await super().send(job)

class Answers(RecordingChannel):
    async def send(self, job):
        await super().send(job)
        return True

class Renames(RecordingChannel):
    async def send(self, job):
        import dataclasses
        return await super().send(dataclasses.replace(job, id=f"{job.id}-{job.attempt}"))

class Base(ChannelSuite):
    kind = RecordingChannel
    backends = ("asyncio",)
    async def make(self):
        return self.kind()
    async def arrived(self, channel):
        return [job.id for job in channel.jobs]
    def endpoint(self):
        return Endpoint("alice", "test", "bob@example.com")

for kind in (RecordingChannel, Raises, Twice, Loses, Talks, Blames, Answers, Renames):
    globals()[f"Test{kind.__name__}"] = type(f"Test{kind.__name__}", (Base,), {"kind": kind})

class TestNoEndpoint(Base):
    def endpoint(self):
        return None
"""

FOUND = {
    "Raises": "odd_contents",
    "Twice": "a_message_arrives",
    "Loses": "a_message_arrives",
    "Talks": "nothing_is_shown",
    "Blames": "odd_addresses",
    "Answers": "a_message_arrives",
    "Renames": "a_repeated_message",
    "NoEndpoint": "it_is_a_channel",
}


def test_the_suite_finds_broken_channels(tmp_path: Path) -> None:
    """Each way to break a promise fails the test of that promise; what keeps them all passes."""
    (tmp_path / "test_broken.py").write_text(BROKEN)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "anyio",
        "--rootdir",
        str(tmp_path),
    ]
    environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    for kind, test in FOUND.items():
        assert f"Test{kind}::test_{test}" in done.stdout, done.stdout
    assert "FAILED test_broken.py::TestRecordingChannel" not in done.stdout


def test_a_job_is_recorded() -> None:
    """The fake tells what was sent to whom."""
    channel = RecordingChannel()
    suite = TestRecordingChannel()
    channel.jobs += [suite.job(1), suite.job(2, type="news"), suite.job(3, user="bob")]

    def numbers(jobs: Sequence[Job]) -> list[str]:
        return [job.notification for job in jobs]

    assert numbers(channel.sent(type="news")) == ["n2"]
    assert numbers(channel.sent(user="alice")) == ["n1", "n2"]
    assert numbers(channel.sent()) == ["n1", "n2", "n3"]
