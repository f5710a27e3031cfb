"""What the demo pushed and what its devices showed, put before the history checker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import anyio.to_thread

from .. import ids
from ..abc import StreamStore
from ..testing.history import Attempt, History, Reader, Verdict

GONE: Final = 10.0
"""Seconds without a word after which a page counts as closed."""

QUIET: Final = 3.0
"""Seconds since the last push after which every connected device must have shown everything."""

LEAST: Final = 0.5
"""Seconds between two verdicts."""

_PAGE: Final = 500
"""Events that are read from the log at once."""

_MISSED: Final = frozenset({"lost-write", "unseen", "contiguity"})


class Pushed(NamedTuple):
    """An acknowledged push."""

    number: int
    user: str
    id: str
    at: float


class _Page:
    """One open page: a reader for each of its devices."""

    def __init__(self, readers: dict[str, Reader]) -> None:
        self.readers = readers
        self.heard = time.monotonic()


class Ledger:
    """Records pushes and what was shown, and judges them by `notify.testing.history`.

    The `prev` of each event, by which the checker proves that nothing was skipped, is read from the log itself.

    Args:
        store: the log.
        users: who takes part.

    Attributes:
        pushed: every acknowledged push, in the order of the acknowledgements.
        in_flight: pushes without an outcome.
    """

    def __init__(self, store: StreamStore, users: Iterable[str]) -> None:
        self.pushed: list[Pushed] = []
        self.in_flight = 0
        self._store = store
        self._history = History()
        self._users = tuple(users)
        self._prev: dict[str, dict[str, str]] = {user: {} for user in self._users}
        self._read_to: dict[str, str] = {}
        self._pages: dict[str, _Page] = {}
        self._last_push = 0.0
        self._verdict: Verdict | None = None
        self._due = 0.0
        self._lock = anyio.Lock()

    async def prepare(self) -> None:
        """Note where each log ends: what lies before that is not part of this demo."""
        for user in self._users:
            self._read_to[user] = await self._store.head(user)

    def attempt(self, user: str, number: int, key: str) -> Attempt:
        """Record that an attempt to push begins."""
        self._last_push = time.monotonic()
        return self._history.pushing(user, number, key=key)

    def acknowledged(self, pushed: Pushed) -> None:
        """Note a push for the pages."""
        self._last_push = time.monotonic()
        self.pushed.append(pushed)

    async def open(self, page: str, devices: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Note that a page opens with these devices, each a name and a user; return where each user's log ends now."""
        starts = {user: await self._store.head(user) for user in self._users}
        readers = {device: self._history.reader(user, starts[user]) for device, user in devices}
        self._pages[page] = _Page(readers)
        return starts

    async def shown(self, page: str, rows: Sequence[Sequence[Any]], gaps: Sequence[Sequence[str]]) -> bool:
        """Record what devices of a page have shown: rows of device, id and number; return False for an unknown page.

        Raises:
            ValueError: a row does not name a device of the page and an id.
        """
        known = self._pages.get(page)
        if known is None:
            return False
        for device, *positions in [*(row[:2] for row in rows), *((gap[0], *gap[2:]) for gap in gaps)]:
            if device not in known.readers or not all(map(ids.is_id, positions)):
                raise ValueError(f"not an event of a device of this page: {device!r:.80}, {positions!r:.80}")
        known.heard = time.monotonic()
        async with self._lock:  # rows of one device in their order, although `prev` may have to be read
            for device, id_, number in rows:
                reader = known.readers[device]
                reader.saw(id_, await self._prev_of(reader.user, id_), number)
            for device, reason, start, end in gaps:
                known.readers[device].gap(reason, start, end)
        return True

    async def verdict(self, *, is_calm: bool) -> dict[str, Any]:
        """Return the checker's verdict, cached for a while, because each check costs time.

        Args:
            is_calm: whether every device is connected; if so, each must have shown every event once pushing stops.
        """
        self._close_pages()
        now = time.monotonic()
        if self._verdict is None or now >= self._due:
            is_quiet = is_calm and not self.in_flight and now - self._last_push > QUIET
            self._due = now + LEAST
            self._verdict = await anyio.to_thread.run_sync(lambda: self._history.check(quiescent=is_quiet))
            self._due = time.monotonic() + max(LEAST, 20 * (time.monotonic() - now))
        found = self._verdict
        rules = [each.rule for each in found.violations]
        return {
            "ok": found.ok,
            "pushed": found.acknowledged,
            "shown": found.yields,
            "retried": found.uncertain,
            "missed": sum(rule in _MISSED for rule in rules),
            "other": sum(rule not in _MISSED for rule in rules),
            "violations": [each.text for each in found.violations[:5]],
        }

    def _close_pages(self) -> None:
        limit = time.monotonic() - GONE
        for name in [name for name, page in self._pages.items() if page.heard < limit]:
            for reader in self._pages.pop(name).readers.values():
                reader.finished()

    async def _prev_of(self, user: str, id_: str) -> str:
        """Return the id before this one in the log; what the log does not hold has none."""
        known = self._prev[user]
        while id_ not in known:
            page = await self._store.read(user, self._read_to[user], _PAGE)
            if not page.events:
                return ids.ZERO
            known.update((event.id, event.prev) for event in page.events)
            self._read_to[user] = page.position
        return known[id_]
