"""Tickets: credentials for one connection, for clients that can send no headers."""

from __future__ import annotations

from typing import Any

from notify import Notifier

from ._options import WebOptions


class Tickets:
    """Makes and redeems the tickets of one application."""

    def __init__(self, notifier: Notifier[Any], options: WebOptions) -> None:
        self._notifier = notifier
        self._options = options
