"""Senders that stop in the middle: `WebhookReceiver` waits for none of them longer than its limits."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from notify import UsageError
from notify.webhook import WebhookReceiver, _receiver
from tests.web.serving import serving

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def refuse_delivery(_: object) -> int:
    """In place of `notifier.deliver`, where nothing may be delivered."""
    raise AssertionError("an event was delivered")


async def test_a_body_that_is_not_completed() -> None:
    """It is answered with 408, which `WebhookRouter` retries."""
    async with serving(WebhookReceiver(refuse_delivery, SECRET, timeout=0.2)) as place:
        with anyio.fail_after(20):
            host, port = place.split(":")
            async with await anyio.connect_tcp(host, int(port)) as socket:
                await socket.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
                received = b""
                while b"}}" not in received:
                    received += await socket.receive()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "too_slow", "message": "the body was not complete after 0.2 s"' in received


async def test_an_answer_that_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is over after a while, even if the server is still waiting for the sender to read."""
    monkeypatch.setattr(_receiver, "SENT_WITHIN", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("a GET has no body to read")

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    with anyio.fail_after(20):
        await WebhookReceiver(refuse_delivery, SECRET)({"type": "http", "method": "GET", "headers": []}, receive, send)
    assert sent == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none(timeout: float) -> None:
    """The limit is greater than 0."""
    with pytest.raises(UsageError, match="timeout must be a number of seconds greater than 0"):
        WebhookReceiver(refuse_delivery, SECRET, timeout=timeout)
