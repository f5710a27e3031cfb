"""Tabs that the browser really freezes: their timers stop, and what the network brings is not handled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.web.browser.devtools import Chromium, Profile, Tab, launched
from tests.web.browser.engines import until
from tests.web.browser.scripted import Scripted

pytestmark = pytest.mark.slow

START = """(() => {
  window.ticks = 0;
  setInterval(() => ticks++, 20);
  if (LOCK) delete window.SharedWorker;
  start();
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with launched(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def profile(chromium: Chromium) -> Iterator[Profile]:
    with chromium.profile() as profile:
        yield profile


def opened(profile: Profile, site: str, sharing: str) -> Tab:
    tab = profile.tab()
    tab.go(site)
    until(tab, "window.ready")
    tab.js(START.replace("LOCK", str(sharing == "lock").lower()))
    until(tab, "got.client.status === 'connected'")
    return tab


def all_have(tabs: list[Tab], scripted: Scripted) -> None:
    """Each tab has got every event, once and in order."""
    expected = [event["id"] for event in scripted.log]
    for tab in tabs:
        until(tab, f"got.ids.length >= {len(expected)}")
        assert tab.js("got.ids") == expected
        assert tab.js("got.gaps") == []


def freeze(tab: Tab, other: Tab) -> int:
    """Freeze a tab; returns how often its timer has run, when the timer of the other one runs and this one does not."""
    tab.set_lifecycle("frozen")
    for _ in range(100):
        ticks, others = tab.js("ticks"), other.js("ticks")
        until(other, f"ticks > {others + 20}")
        if tab.js("ticks") == ticks:
            return int(ticks)
    raise AssertionError("the tab is not frozen")


@pytest.mark.parametrize(("sharing", "which"), [("worker", 0), ("lock", 0), ("lock", 2)], ids=str)
def test_a_frozen_tab(profile: Profile, site: str, scripted: Scripted, sharing: str, which: int) -> None:
    """The others miss nothing, whoever had the stream; going on, the tab gets what it has missed, each event once."""
    tabs = [opened(profile, site, sharing) for _ in range(3)]
    for number in range(5):
        scripted.push(number)
    all_have(tabs, scripted)
    frozen, *others = [tabs[which], *(tab for tab in tabs if tab is not tabs[which])]
    ticks = freeze(frozen, others[0])
    for number in range(5, 10):
        scripted.push(number)
    all_have(others, scripted)
    assert frozen.js("ticks") == ticks
    assert frozen.js("[got.client.status, got.payloads]") == ["paused", list(range(5))]
    frozen.set_lifecycle("active")
    for number in range(10, 15):
        scripted.push(number)
    all_have(tabs, scripted)
    until(frozen, "got.client.status === 'connected'")
    scripted.settle(1)
    scripted.push("last")
    all_have(tabs, scripted)


@pytest.mark.parametrize("sharing", ["worker", "lock"])
def test_a_leader_whose_process_is_stopped(profile: Profile, site: str, scripted: Scripted, sharing: str) -> None:
    """It hears of no freezing, keeps the lock, and its stream stays open: after a few pings one other tab takes over.

    Going on, it reads what the browser has kept of its stream, closes it, and joins: no tab gets an event twice.
    """
    first, *others = [opened(profile, site, sharing) for _ in range(3)]
    for number in range(5):
        scripted.push(number)
    all_have([first, *others], scripted)
    scripted.settle(1)
    (led,) = scripted.streams
    pid = first.process()  # with a worker, that of the worker too
    assert pid not in {tab.process() for tab in others}
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(5, 10):
            scripted.push(number)
        all_have(others, scripted)
        scripted.settle(2)  # if both have missed the pings, each may begin, and the later one ends that of the other
        assert led in scripted.streams
    finally:
        os.kill(pid, signal.SIGCONT)
    for number in range(10, 15):
        scripted.push(number)
    all_have([first, *others], scripted)
    until(first, "got.client.status === 'connected'")
    scripted.settle(1)
    scripted.push("last")
    all_have([first, *others], scripted)
