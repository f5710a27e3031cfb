"""Events that are not stored, from one process to the others: by NOTIFY, on the channel of the wake messages.

A further channel would wake every process twice. The payload of an event begins with a mark, and then its target: the
short key of a user, by which a process without open streams of that user drops it unread, or `*` for a broadcast.

Sending never waits: events queue up while a statement is in progress, and the next statement carries them. The queue is
bounded; if it is full, or NOTIFY fails, events are lost, which is logged once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Container
from typing import Final

from notify import Background, Event, NotifyError
from notify.abc import Deliver
from notify.adapters import OutageLog

from ._fragments import ALL, FragmentAssembler, split
from ._names import short_key
from ._wake import PostgresWakePublisher

logger = logging.getLogger("notify.pg")

MARK: Final = "="
"""The first character of each payload that carries an event."""

MAX_QUEUED: Final = 4096
"""Payloads that wait to be sent: 32 MB at most. Beyond this, the oldest are dropped."""

BATCH: Final = 128
"""Payloads that one statement sends: 1 MB at most."""


class PostgresEphemerals:
    """Sends and receives the events of one store.

    Args:
        publisher: sends.
        background: its task waits for the publisher.
        keys: short keys of the users with open streams, kept up to date by the store.
        deliver: called with the bytes of each event that arrives for one of them, or for all.
    """

    def __init__(
        self, publisher: PostgresWakePublisher, background: Background, keys: Container[str], deliver: Deliver
    ) -> None:
        self._publisher = publisher
        self._background = background
        self._keys = keys
        self._assembler = FragmentAssembler(deliver)
        self._queue: deque[str] = deque(maxlen=MAX_QUEUED)
        self._is_sending = False
        self._outage = OutageLog(
            logger,
            "ephemeral events are lost on their way to other processes",
            "ephemeral events reach other processes again",
        )

    def send(self, event: Event) -> None:
        """Queue an event. Never waits."""
        payloads = split(f"{MARK}{short_key(event.user) if event.user else ALL}", event.to_bytes())
        if len(self._queue) + len(payloads) > MAX_QUEUED:
            self._outage.failed(f"over {MAX_QUEUED} messages are waiting to be sent")
        self._queue.extend(payloads)
        if not self._is_sending and not self._background.closed:
            self._is_sending = True
            self._background.start(self._send_queued)

    def take(self, payload: str) -> None:
        """Take a payload that begins with the mark."""
        target = payload[len(MARK) :].partition(" ")[0]
        if target == ALL or target in self._keys:
            self._assembler.take(payload)

    async def _send_queued(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                try:
                    await self._publisher.send(*batch)
                except NotifyError as error:
                    self._outage.failed(error)
                else:
                    self._outage.recovered()
        finally:
            self._is_sending = False
