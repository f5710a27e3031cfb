"""Waiting after wrong secrets: how long, for whom, and in how much memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.web._throttle import FORGOTTEN, FREE, LONGEST, Throttle, network_of


def test_the_wait_grows() -> None:
    """A few failures are free, then 1 s, 2 s, 4 s, up to a minute; another address does not wait."""
    throttle, now, waits = Throttle(), 1000.0, []
    for _ in range(FREE + 10):
        throttle.failed("10.0.0.1", now)
        waits.append(throttle.wait("10.0.0.1", now))
        now += waits[-1]
        assert throttle.wait("10.0.0.1", now) == 0
    assert waits[: FREE + 3] == [0.0] * (FREE - 1) + [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST
    assert throttle.wait("10.0.0.2", now) == 0


def test_an_address_that_behaves_is_forgotten() -> None:
    """After ten minutes without a failure it has its free attempts again."""
    throttle = Throttle()
    for _ in range(FREE):
        throttle.failed("10.0.0.1", 0.0)
    assert throttle.wait("10.0.0.1", 0.5) == 0.5
    throttle.failed("10.0.0.1", 2 + FORGOTTEN)
    assert throttle.wait("10.0.0.1", 2 + FORGOTTEN) == 0


def test_memory_is_bounded() -> None:
    """The address that failed least recently makes room."""
    throttle = Throttle(max_addresses=3)
    for number in [*range(FREE), 0, 0, 0, 0, 0]:
        throttle.failed(f"10.0.0.{number}", 0.0)
    assert len(throttle) == 3
    assert throttle.wait("10.0.0.0", 0.0) > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_what_an_address_counts_as(address: str, network: str) -> None:
    """IPv6 by the /64 that one client owns; an IPv4 address in either spelling is one."""
    assert network_of(address) == network


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 100)), max_size=60))
def test_any_history_keeps_the_bounds(failures: list[tuple[str, float]]) -> None:
    """No wait is negative or over a minute, and only an address with failures waits."""
    throttle, now = Throttle(max_addresses=2), 0.0
    for address, step in failures:
        now += step
        throttle.failed(address, now)
        assert 0 <= throttle.wait(address, now) <= LONGEST
        assert throttle.wait("other", now) == 0
        assert len(throttle) <= 2
