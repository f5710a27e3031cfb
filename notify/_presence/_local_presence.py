"""Presence of the users with streams open at one notifier: one registration each, kept for a while after the last."""

from __future__ import annotations

import logging
import random
from collections import deque

import anyio

from .._runtime._background import Background
from .._runtime._backoff import backoff
from .._runtime._loop_guard import LoopGuard
from .._runtime._outage_log import OutageLog
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import ImmediatePresence, PresenceTracker, Registration, RoutingInfo, ability

logger = logging.getLogger("notify")


class Entry:
    """One user: how many streams are open, and the registration that stands for all of them."""

    __slots__ = ("attempted", "leaves_at", "registration", "streams", "waiters")

    def __init__(self) -> None:
        self.streams = 0
        self.registration: Registration | None = None
        self.attempted = False
        self.leaves_at: float | None = None
        self.waiters: list[Waiter] = []


class LocalPresence:
    """Registers users while they have tracked streams, and for `linger` seconds after the last one was closed.

    A stream waits for the first attempt to register its user, unless the tracker is known to hang.

    Invariant: a user has an entry from the first open stream until the registration is released.
    """

    def __init__(
        self,
        tracker: PresenceTracker,
        routing: RoutingInfo,
        *,
        linger: float,
        timeout: float,
        background: Background,
        guard: LoopGuard,
        counters: Counters,
    ) -> None:
        self._tracker = tracker
        self._immediate = (
            tracker if ability(tracker, ImmediatePresence, register_nowait="register", locate_nowait="locate") else None
        )
        self._routing = routing
        self._linger = linger
        self._timeout = timeout
        self._background = background
        self._guard = guard
        self._counters = counters
        self._entries: dict[str, Entry] = {}
        self._leaving: deque[tuple[float, str]] = deque()
        self._sweeping = self._hangs = False
        name = type(tracker).__name__
        self._unregistered = OutageLog(
            logger,
            f"{name} cannot register users who are connected, so other instances may take them for offline",
            f"{name} registers users again",
        )
        self._unreleased = OutageLog(
            logger,
            f"{name} cannot release users who have left, so they count as online until their registrations expire",
            f"{name} releases users again",
        )

    def enter(self, user: str) -> None:
        """Count a stream that was opened, and start to register its user if it is the first."""
        entry = self._entries.get(user)
        if entry is None:
            entry = self._entries[user] = Entry()
            if self._immediate is not None:
                entry.attempted = True
                try:
                    entry.registration = self._immediate.register_nowait(user, self._routing)
                except Exception as error:
                    self._failed(error)
                else:
                    self._unregistered.recovered()
            else:
                self._background.start(self._register, user, entry)
        entry.streams += 1
        entry.leaves_at = None
        if self._linger and not self._sweeping:
            self._sweeping = True
            self._background.start(self._sweep)

    def is_ready(self, user: str) -> bool:
        """Whether the user is registered, or a first attempt has failed."""
        entry = self._entries.get(user)
        return entry is None or entry.attempted

    async def ready(self, user: str) -> None:
        """Wait until the user is registered, or a first attempt has failed."""
        entry = self._entries.get(user)
        if entry is None or entry.attempted or self._hangs:
            return
        waiter = self._guard.new_waiter()
        entry.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in entry.waiters:
                entry.waiters.remove(waiter)

    def leave(self, user: str) -> None:
        """Count a stream that was closed. Never waits: called in finalisers too."""
        entry = self._entries[user]
        entry.streams -= 1
        if entry.streams:
            return
        now = self._guard.time()
        if self._linger and now is not None:  # otherwise nothing would sweep
            entry.leaves_at = now + self._linger
            self._leaving.append((entry.leaves_at, user))
        else:
            self._drop(user, entry)

    def release_all(self) -> list[Registration]:
        """Release every registration without waiting, and return them."""
        entries, self._entries = self._entries, {}
        registrations = [entry.registration for entry in entries.values() if entry.registration is not None]
        for registration in registrations:
            self._release(registration)
        return registrations

    async def aclose(self, grace: float) -> None:
        """Release every registration, so that others see the users leave; waits `grace` seconds at most."""
        registrations = self.release_all()
        with anyio.move_on_after(grace, shield=True):
            for registration in registrations:
                try:
                    await registration.aclose()
                except Exception as error:
                    self._not_released(error)
                    break

    async def _register(self, user: str, entry: Entry) -> None:
        delays = backoff(random.random)
        while True:
            scope = anyio.CancelScope()
            try:
                with anyio.fail_after(self._timeout) as scope:
                    entry.registration = await self._tracker.register(user, self._routing)
            except Exception as error:
                self._hangs = scope.cancelled_caught
                self._failed(f"no answer within {self._timeout} s" if self._hangs else error)
            else:
                self._hangs = False
                self._unregistered.recovered()
            finally:
                entry.attempted = True
                for waiter in entry.waiters:
                    wake(waiter)
                entry.waiters.clear()
            if self._entries.get(user) is not entry:  # the user left during the call
                self._release(entry.registration)
                return
            if entry.registration is not None:
                return
            await anyio.sleep(next(delays))

    async def _sweep(self) -> None:
        """Release users whose last stream was closed `linger` seconds ago, until cancelled."""
        pause = min(1.0, max(0.01, self._linger / 4))
        while True:
            now = anyio.current_time()
            while self._leaving and self._leaving[0][0] <= now:
                leaves_at, user = self._leaving.popleft()
                entry = self._entries.get(user)
                if entry is not None and entry.leaves_at == leaves_at:
                    self._drop(user, entry)
            await anyio.sleep(pause)

    def _drop(self, user: str, entry: Entry) -> None:
        del self._entries[user]
        self._release(entry.registration)

    def _release(self, registration: Registration | None) -> None:
        if registration is not None:
            try:
                registration.release()
            except Exception as error:
                self._not_released(error)
            else:
                self._unreleased.recovered()

    def _failed(self, error: Exception | str) -> None:
        self._counters.presence_failures += 1
        if not self._unregistered.is_failing:
            self._unregistered.failed(error)

    def _not_released(self, error: Exception) -> None:
        self._counters.presence_failures += 1
        if not self._unreleased.is_failing:
            self._unreleased.failed(error)
