"""The conformance suites for channels."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_args

import anyio
import pytest

from notify.dispatch import (
    Accepted,
    Ambiguous,
    Channel,
    Content,
    Delivered,
    Endpoint,
    Job,
    Misconfigured,
    Outcome,
    Transient,
)

from ._suite import Suite

TAKEN = Accepted | Delivered

ODD_ADDRESSES = ("", " ", "\r\nX: y", "x" * 10_000, "\x00", "a b", "https://[", "\ud800", "..", "ä@ä", "%s%n")
"""What may be registered as an address by mistake, or by an attacker."""

ODD_CONTENTS = (
    Content(),
    Content("only a title"),
    Content("two\r\nlines", "\x00\x07", url="javascript:alert(1)"),
    Content("Ünïcode \U0001f514", "\u202e" * 10, short="\ufffd", html="<p>\u2028</p>", silent=True),
    Content("half a pair: \ud800", "\ud800", html="\udfff"),
    Content("x" * 20_000, "y" * 20_000, html="z" * 20_000, tag="t" * 500),
)


class ChannelSuite(Suite[Channel]):
    """What every channel promises to the dispatcher.

    Attributes:
        secrets: texts of the test's settings that must not be shown: keys, passwords.
    """

    secrets: ClassVar[Collection[str]] = ()

    @abstractmethod
    async def make(self) -> Channel:
        """Return a channel whose receiver takes messages, and has none yet."""

    @abstractmethod
    async def arrived(self, channel: Channel) -> Sequence[str]:
        """Return the ids (`Job.id`) that the receiver of this channel has taken, in order."""

    def endpoint(self) -> Endpoint | None:
        """Return an endpoint that the receiver knows; None: the channel has no endpoints."""
        return None

    def job(self, number: int = 0, **fields: Any) -> Job:
        """Return a job."""
        now = datetime.now(UTC)
        job = Job(
            id=f"{number:032x}",
            notification=f"n{number}",
            type="comment.created",
            category="transactional",
            user="alice",
            channel="test",
            endpoint=self.endpoint(),
            content=Content("A comment", "Bob wrote: hello", url="https://example.com/posts/7"),
            data={"post": 7},
            priority="normal",
            expires_at=now + timedelta(hours=1),
            now=now,
            attempt=1,
            created_at=now,
        )
        return replace(job, **fields)

    async def test_it_is_a_channel(self) -> None:
        """It says whether it has endpoints, and whether its receiver recognises repeated messages."""
        async with self.fresh() as channel:
            name = type(channel).__name__
            assert isinstance(channel, Channel), f"{name} lacks has_endpoints, deduplicates or send()"
            assert channel.has_endpoints is (self.endpoint() is not None), (
                f"{name}.has_endpoints must be {self.endpoint() is not None}, or endpoint() of the suite is missing"
            )
            assert isinstance(channel.deduplicates, bool), f"{name}.deduplicates must be True or False"

    async def test_a_message_arrives(self) -> None:
        """It is taken, and the receiver has it once."""
        async with self.fresh() as channel:
            outcome = await channel.send(self.job())
            assert isinstance(outcome, TAKEN), f"the receiver takes messages, but send() returned {outcome}"
            assert list(await self.arrived(channel)) == [self.job().id]

    async def test_messages_at_the_same_time(self) -> None:
        """Any number of tasks may send; every message arrives."""
        async with self.fresh() as channel:
            outcomes: list[Outcome] = []

            async def send(number: int) -> None:
                outcomes.append(await channel.send(self.job(number)))

            async with anyio.create_task_group() as tasks:
                for number in range(12):
                    tasks.start_soon(send, number)
            assert all(isinstance(outcome, TAKEN) for outcome in outcomes), outcomes
            assert sorted(await self.arrived(channel)) == [self.job(number).id for number in range(12)]

    async def test_a_repeated_message(self) -> None:
        """It has the same id, by which the receiver recognises it if the channel says so."""
        async with self.fresh() as channel:
            for attempt in (1, 2):
                outcome = await channel.send(self.job(attempt=attempt))
                assert isinstance(outcome, TAKEN), f"attempt {attempt} returned {outcome}"
            assert set(await self.arrived(channel)) == {self.job().id}

    async def test_priorities_and_expiry(self) -> None:
        """Each priority, without an end, and after it: an outcome."""
        async with self.fresh() as channel:
            for priority in ("low", "normal", "high", "critical"):
                for expires_at in (None, datetime.now(UTC) - timedelta(hours=1)):
                    job = self.job(priority=priority, expires_at=expires_at, locale="de-AT", collapse="post 7: ä")
                    self.expect(await channel.send(job))

    async def test_odd_contents(self) -> None:
        """Whatever the text is, it is sent or refused, without an exception."""
        async with self.fresh() as channel:
            for number, content in enumerate(ODD_CONTENTS):
                self.expect(await channel.send(self.job(number, content=content)))

    async def test_odd_addresses(self) -> None:
        """Whatever the address is, the outcome is not an exception, and never blames the settings."""
        async with self.fresh() as channel:
            endpoint = self.endpoint()
            for address in ODD_ADDRESSES if endpoint is not None else ():
                assert endpoint is not None
                outcome = await channel.send(self.job(endpoint=replace(endpoint, address=address)))
                self.expect(outcome)
                assert not isinstance(outcome, Misconfigured), f"{address[:20]!r} is not the fault of the settings"

    async def test_nothing_is_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither address nor secrets are in the log, in the channel's repr, or in an outcome."""
        endpoint = self.endpoint()
        hidden = [*self.secrets, *([endpoint.address, *endpoint.meta.values()] if endpoint is not None else [])]
        async with self.fresh() as channel:
            with caplog.at_level(logging.INFO):
                shown = [repr(channel), repr(await channel.send(self.job()))]
            for text in (*shown, caplog.text):
                found = [secret for secret in hidden if secret and secret in text]
                assert not found, f"{len(found)} of the addresses and secrets are shown in {text[:20]!r}..."

    def expect(self, outcome: object) -> None:
        """Assert that a channel returned an outcome."""
        assert isinstance(outcome, get_args(Outcome)), f"send() must return an Outcome, not {type(outcome).__name__}"


class RemoteChannelSuite(ChannelSuite):
    """What a channel promises whose receiver may fail."""

    @abstractmethod
    async def make_unreachable(self) -> Channel:
        """Return a channel whose receiver refuses connections."""

    @abstractmethod
    async def make_silent(self) -> Channel:
        """Return a channel whose receiver takes messages and never answers, and that waits a second at most."""

    async def make_unconfigured(self) -> Channel | None:
        """Return a channel that lacks a setting; None: that cannot be."""
        return None

    async def test_unreachable(self) -> None:
        """Certainly nothing was sent, and that is the outcome."""
        channel = await self.make_unreachable()
        async with self.closing(channel):
            outcome = await channel.send(self.job())
        assert isinstance(outcome, Transient), f"nothing was sent, so the outcome is Transient, not {outcome}"

    async def test_no_answer(self) -> None:
        """It may have been taken: the outcome is not certain."""
        channel = await self.make_silent()
        async with self.closing(channel):
            outcome = await channel.send(self.job())
        assert isinstance(outcome, Ambiguous), f"it may have been taken, so the outcome is Ambiguous, not {outcome}"

    async def test_cancelled(self) -> None:
        """A cancelled message leaves nothing behind, and the channel can be used."""
        channel = await self.make_silent()
        async with self.closing(channel):
            with anyio.move_on_after(0.05):
                await channel.send(self.job())
            self.expect(await channel.send(self.job(1)))

    async def test_not_configured(self) -> None:
        """A missing setting is an outcome that retires no endpoint."""
        channel = await self.make_unconfigured()
        if channel is not None:
            async with self.closing(channel):
                outcome = await channel.send(self.job())
            assert isinstance(outcome, Misconfigured), f"a setting is missing, but the outcome is {outcome}"
