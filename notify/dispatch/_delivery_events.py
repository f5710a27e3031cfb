"""What becomes of deliveries, as events in their recipients' logs, so that every open page can show it."""

from __future__ import annotations

import logging
from typing import Any, Final

from notify import BackendError, NotifyError, UsageError
from notify import Notifier as Notifier
from notify.adapters import OutageLog

from ._reasons import Reason
from .abc import Claim, DispatchRecords, State

logger = logging.getLogger("notify")

TYPE: Final = "delivery"
"""The type of the events."""


class DeliveryEvents:
    """Pushes an event for each state that a delivery ends in, or may stay in; once, however often that is reported.

    The payload has `id` (of the delivery), `notification`, `type`, `channel`, `state` in lower case, and `reason`.
    Cancelling pushes them if the recipient is known. Erasing a user, purging and releasing push none, and neither does
    a delivery to a recipient without an account, who has no log. The state is stored first: if the process dies before
    the push, or the log is unavailable, the event is lost and the state is not.

    Args:
        notifier: pushes them; None: there are none.

    Raises:
        UsageError: it is something else.
    """

    def __init__(self, notifier: Notifier[Any] | None) -> None:
        if notifier is not None and not isinstance(notifier, Notifier):
            raise UsageError(f"Dispatcher: events must be a Notifier or None, not {notifier!r:.80}")
        self.notifier = notifier
        self._log = OutageLog(logger, "states of deliveries are not pushed", "states of deliveries are pushed again")

    async def tell(self, claim: Claim, state: State, reason: str) -> bool:
        """Push the new state of a delivery, if events are wanted; return False if the log is unavailable."""
        delivery, notification = claim.delivery, claim.notification
        if self.notifier is None or claim.recipient.address or state.is_open or state is State.EXPANDED:
            return True
        payload = {
            "id": delivery.id,
            "notification": notification.id,
            "type": notification.type,
            "channel": delivery.channel,
            "state": state.name.lower(),
            "reason": str(reason),
        }
        try:
            await self.notifier.push(delivery.user, TYPE, payload, key=f"{delivery.id}/{payload['state']}")
        except NotifyError as error:
            self._log.failed(error)
            return False
        self._log.recovered()
        return True

    async def tell_cancelled(self, records: DispatchRecords, notification: str, user: str, reason: Reason) -> None:
        """Push an event for each of a user's deliveries of a notification that were cancelled for this reason."""
        if self.notifier is None:
            return
        try:
            record = await records.record(notification, user)
        except BackendError as error:
            self._log.failed(error)
            return
        for each in () if record is None else record[2]:
            is_stopped = each.state in (State.CANCELLED, State.UNKNOWN) and each.reason == reason
            if record is not None and is_stopped:
                if not await self.tell(Claim(each, record[0], record[1], False), each.state, each.reason):
                    return
