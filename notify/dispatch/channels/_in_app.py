"""`InAppChannel`: the user's inbox, and with it every open page of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from notify import BackendUnavailableError, InvalidEventError, PushRejectedError, PushUncertainError
from notify.inbox import Inbox

from .._channel import Job
from .._outcomes import Accepted, Ambiguous, Outcome, Rejected, Transient

NO_ALERT: Mapping[str, str] = {"alert": "off"}
"""In the meta of an item that is listed without an alert."""


def in_app_payload(job: Job) -> Mapping[str, Any]:
    """Return the payload of an item: the names that the browser client shows, without those that are empty.

    They are `title`, `message`, `action_url`, `icon`, `image` and `data`, which is what was submitted.
    """
    content = job.content
    texts = {
        "title": content.title,
        "message": content.body or content.short,
        "action_url": content.url,
        "icon": content.icon,
        "image": content.image,
    }
    payload: dict[str, Any] = {name: text for name, text in texts.items() if text}
    if content.actions:
        payload["actions"] = [{"id": each.id, "title": each.title, "url": each.url} for each in content.actions]
    return {**payload, "data": {**job.data, **content.data}}


class InAppChannel:
    """Lists the notification in the user's inbox, which delivers it to every open stream of the user.

    The dispatcher has to know it as `in_app`. The id of the delivery is the key of the item, so a repeated delivery
    stores one item. `Job.collapse` is the item's group. The item's meta has the id of the notification, by which a page
    recognises a web push of the same one. If the user has switched the inbox off, it also has `"alert": "off"`, and the
    browser client shows no toast for the item.

    Args:
        inbox: the inbox.
        payload: a function from a job to the payload of its item.
    """

    has_endpoints: ClassVar = False
    deduplicates: ClassVar = True

    def __init__(self, inbox: Inbox, *, payload: Callable[[Job], Any] = in_app_payload) -> None:
        self._inbox = inbox
        self._payload = payload

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`. The provider's id is that of the item."""
        ttl = None if job.expires_at is None else (job.expires_at - job.now).total_seconds()
        if ttl is not None and ttl <= 0:
            return Rejected("expired", error="it has expired")
        try:
            event = await self._inbox.send(
                job.user,
                job.type,
                self._payload(job),
                key=job.id,
                group=job.collapse or None,
                meta={"notification": job.notification, **({} if job.alert else NO_ALERT)},
                ttl=ttl,
            )
        except InvalidEventError as error:
            return Rejected(type(error).__name__, error="the item is not valid")
        except (PushRejectedError, BackendUnavailableError) as error:
            return Transient(type(error).__name__, error="the store did not take the item")
        except PushUncertainError:
            return Ambiguous("the store did not answer")
        if event is None:
            return Rejected("withheld", error="a hook of the inbox, or the offline policy, withheld it")
        return Accepted(event.id)
