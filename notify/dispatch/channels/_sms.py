"""`SmsChannel`: text messages through a gateway that speaks HTTP."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from notify.http import HttpAnswer, HttpClient, HttpError

from .._channel import Job
from .._checks import check_count
from .._outcomes import EndpointGone, Misconfigured, Outcome, Rejected
from ._requests import HttpChannel, unanswered
from ._sms_text import sms_size

_NUMBER = re.compile(r"\+[1-9][0-9]{5,14}", re.ASCII)
_PUNCTUATION = re.compile(r"[\s().\-/\u00a0]")


@dataclass(frozen=True, slots=True)
class SmsRequest:
    """What is posted to a gateway. The repr shows nothing of it.

    Attributes:
        url: where to.
        headers: with those that log in.
        content: the body.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@runtime_checkable
class SmsGateway(Protocol):
    """The API of one gateway: the request for a message, and the meaning of an answer."""

    @abstractmethod
    def request(self, job: Job, number: str, text: str) -> SmsRequest | Misconfigured:
        """Return the request for one message, or `Misconfigured` if a setting is missing."""

    @abstractmethod
    def outcome(self, answer: HttpAnswer, now: float) -> Outcome:
        """Return the outcome for an answer; `now` is the time in seconds since 1970."""


class SmsChannel(HttpChannel):
    """Sends the short text, or else the body or the title, to the endpoint's number, such as `+431234567`.

    Most gateways do not recognise a repeated message. So a message whose outcome is unknown is not sent again, unless
    `deduplicates` is True.

    Args:
        gateway: `HttpSmsGateway`, `TwilioSmsGateway`, or one of your own.
        max_segments: the most segments of a text; a longer one is refused, because every segment costs money. In the
            GSM alphabet one has 153 characters, or 160 if it is the only one; one other character, such as a Cyrillic
            letter or an emoji, makes that 67 and 70.
        deduplicates: whether the gateway recognises a repeated delivery id.
        client: sends the requests; None: a pool of its own, with a new connection for each message, so that none is
            lost on a connection that is just being closed.
        timeout: seconds for one request.
        allow_private: whether the pool connects to addresses that are not public, such as those of your own network.
        wall_clock: returns the seconds since 1970, for answers that name a date.

    Raises:
        UsageError: an argument is not valid, or the extra `sms` is not installed.
    """

    has_endpoints: ClassVar = True

    def __init__(
        self,
        gateway: SmsGateway,
        *,
        max_segments: int = 10,
        deduplicates: bool = False,
        client: HttpClient | None = None,
        timeout: float = 10.0,
        allow_private: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        check_count("max_segments", max_segments)
        super().__init__("sms", client, timeout, allow_private, idle=0.0)
        self.deduplicates = deduplicates
        self._gateway = gateway
        self._max_segments = max_segments
        self._clock = wall_clock

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        assert job.endpoint is not None, "an SMS is sent to an endpoint"
        number = _PUNCTUATION.sub("", job.endpoint.address)
        if not _NUMBER.fullmatch(number):
            return EndpointGone("malformed")
        text = job.content.short or job.content.body or job.content.title
        if not text:
            return Rejected("empty", error="the content has no text")
        segments, is_gsm = sms_size(text)
        if segments > self._max_segments:
            alphabet = "GSM" if is_gsm else "UCS-2"
            text = f"the text has {segments} segments in {alphabet}, over max_segments={self._max_segments}"
            return Rejected("too_long", error=f"{text}: set Content.short")
        request = self._gateway.request(job, number, text)
        if isinstance(request, Misconfigured):
            return request
        try:
            answer = await self._post(request.url, request.headers, request.content)
        except HttpError as error:
            return unanswered(error, is_provider=True)
        return self._gateway.outcome(answer, self._clock())
