"""Endpoints and addresses: what is refused before anything is sent."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from notify import Event, UsageError
from notify.http._addresses import AddressRefusedError, is_public, resolve
from notify.webhook import WebhookEndpoint, WebhookRouter

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

EVENT = Event("alice", "comment.created", {"post": 7})


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, True),
        ({"types": ["comment.created"]}, True),
        ({"types": {"comment.created", "other"}}, True),
        ({"types": ["comment"]}, False),
        ({"types": ["comment.created.x"]}, False),
        ({"users": ["alice"]}, True),
        ({"users": ["bob"]}, False),
        ({"users": []}, False),
        ({"types": ["comment.created"], "users": ["bob"]}, False),
    ],
)
def test_types_and_users_choose(options: Any, wanted: bool) -> None:
    """An empty filter of types matches all, names match exactly, and both filters have to match."""
    assert WebhookEndpoint("https://example.com/hook", SECRET, **options).wants(EVENT) is wanted


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "http://[::1/",
        "https://user:pw@example.com/",
        "https://user@example.com/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://example.com:port/",
        "https://exa mple.com/",
        "https://example.com/\r\nX: y",
        "https://exämple.com/",
        None,
        5,
        b"https://example.com/",
    ],
)
def test_an_unacceptable_url_is_refused(url: Any) -> None:
    """What is no absolute URL for HTTP, or holds a login or a fragment, is refused without being shown whole."""
    with pytest.raises(UsageError) as caught:
        WebhookEndpoint(url, SECRET)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-signature": "v1,abc"},
        {"Webhook-Timestamp": "1"},
        {"WEBHOOK-ID": "x"},
        {"webhook-anything": "x"},
        {"Host": "internal"},
        {"content-length": "0"},
        {"Content-Type": "text/plain"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"X-A": "line\r\nX-B: 1"},
        {"X-A\r\n": "b"},
        {"": "b"},
        {"X A": "b"},
        {"X-A": "ä"},
        {"X-A": 1},
        {5: "b"},
    ],
)
def test_an_unacceptable_header_is_refused(headers: Any) -> None:
    """Headers of the signature and of HTTP itself cannot be replaced, and none can smuggle in another."""
    with pytest.raises(UsageError):
        WebhookEndpoint("https://example.com/", SECRET, headers=headers)


def test_a_single_name_is_no_filter() -> None:
    """A str in place of a collection would match by letters."""
    with pytest.raises(UsageError, match="types"):
        WebhookEndpoint("https://example.com/", SECRET, "comment.created")
    with pytest.raises(UsageError, match="users"):
        WebhookEndpoint("https://example.com/", SECRET, users="alice")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/hooks/T0KEN?k=v", "https://example.com"),
        ("http://example.com:8080/T0KEN", "http://example.com:8080"),
        ("https://[2001:db8::1]:8443/T0KEN", "https://[2001:db8::1]:8443"),
    ],
)
def test_a_name_shows_no_path(url: str, name: str) -> None:
    """The path of a webhook is often a secret, so it is in no repr."""
    endpoint = WebhookEndpoint(url, SECRET)
    assert endpoint.name == name
    assert repr(endpoint) == f"<WebhookEndpoint {name}>"


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"retries": None},
        {"timeout": 0},
        {"timeout": None},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": True},
        {"max_retry_after": -1},
        {"max_retry_after": "5"},
    ],
)
def test_an_unacceptable_number_is_refused(options: Any) -> None:
    """The numbers of a router are checked."""
    with pytest.raises(UsageError, match=next(iter(options))):
        WebhookRouter([], **options)


def test_a_url_is_no_endpoint() -> None:
    """A router takes endpoints, since each needs a secret."""
    with pytest.raises(UsageError, match="WebhookEndpoint"):
        WebhookRouter(["https://example.com/"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:a00:1::1",
        "2600::5efe:10.0.0.1",
        "2600::200:5efe:10.0.0.1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, reserved and multicast ones, in every wrapping that a gateway unwraps."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    """Those of the internet, also wrapped."""
    assert is_public(address)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "LOCALHOST",
        "0177.0.0.1",
    ],
)
async def test_every_spelling_of_a_private_address_is_refused(host: str) -> None:
    """What counts is the address that is connected to."""
    with pytest.raises(AddressRefusedError, match="allow_private"):
        await resolve(host, 80, allow_private=False)
    assert await resolve(host, 80, allow_private=True)


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]"])
async def test_a_public_address_is_accepted(host: str) -> None:
    """An address of the internet needs no permission."""
    assert await resolve(host, 443, allow_private=False) == [host.strip("[]")]


def test_the_extra_that_is_missing_is_named() -> None:
    """Without httpcore2 a router cannot be made, and says what to install."""
    script = (
        "import sys; sys.modules['httpcore2'] = None\n"
        "from notify.webhook import WebhookRouter\n"
        "try: WebhookRouter([])\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("UsageError WebhookRouter needs the extra webhook")
    assert "pip install 'notify-streams[webhook]'" in done.stdout
