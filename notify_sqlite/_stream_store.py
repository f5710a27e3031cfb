"""A SQLite store that streams: commits of other processes are noticed at once by inotify, or by polling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from anyio.abc import TaskStatus

from notify import Event, Stream, UsageError
from notify.abc import Position
from notify.adapters import LiveLog

from ._listen import SQLiteWatcher
from ._opening import Path
from ._store import SQLiteStore


class SQLiteStreamStore(SQLiteStore):
    """As `SQLiteStore`; every save reaches the open streams of every process on the same file.

    Args:
        path: as for `SQLiteStore`.
        table_prefix: as for `SQLiteStore`.
        max_len: as for `SQLiteStore`.
        max_age: as for `SQLiteStore`.
        key_window: as for `SQLiteStore`.
        synchronous: as for `SQLiteStore`.
        timeout: as for `SQLiteStore`.
        poll_interval: seconds within which commits of other processes are noticed where inotify does not report
            them. A look costs a few microseconds, for all streams together.
        network: as for `SQLiteStore`.
        clock: as for `SQLiteStore`.

    Raises:
        UsageError: an argument is not acceptable.
    """

    def __init__(
        self,
        path: Path,
        *,
        table_prefix: str = "notify_",
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        timeout: float = 4.0,
        poll_interval: float = 0.02,
        network: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not poll_interval > 0:
            raise UsageError(f"poll_interval must be greater than 0, not {poll_interval!r}")
        super().__init__(
            path,
            table_prefix=table_prefix,
            max_len=max_len,
            max_age=max_age,
            key_window=key_window,
            synchronous=synchronous,
            timeout=timeout,
            network=network,
            clock=clock,
        )
        self._watcher = SQLiteWatcher(self._database, poll_interval, self._ephemerals.sender)
        self._live = LiveLog(self, background=self._database.services, listen=self._listen)

    @property
    def live(self) -> LiveLog:
        """The live side, which all notifiers on this store share."""
        return self._live

    @property
    def is_receiving(self) -> bool:
        """Whether the file is being watched for the commits of other processes."""
        return self._live.is_receiving

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        self._database.check()
        return self._live.subscribe(user, last_id)

    def send_ephemeral(self, event: Event) -> None:
        """See `notify.abc.Ephemerals.send_ephemeral`; one row for all processes, which is removed seconds later."""
        self._saver.send(event)

    async def aclose(self) -> None:
        """End every stream, then close. Idempotent."""
        self._live.close()
        await super().aclose()

    def _on_stored(self, events: Sequence[Event]) -> None:
        super()._on_stored(events)
        offer = self._live.offer
        for event in events:
            offer(event)

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        await self._watcher.listen(self._live, task_status=task_status)
