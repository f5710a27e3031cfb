"""Every error the library raises. The parent class says what to do about it.

```text
NotifyError
├── UsageError                    the call is wrong: fix it; nothing was stored
│   ├── ClosedError               the notifier, stream, store or tracker is closed
│   │   ├── SlowConsumerError     the stream fell behind `max_lag`; resume from `.last_id`
│   │   └── DisconnectedError     the stream was ended by `disconnect` or by `expires_at`; see `.reason`
│   ├── InvalidEventIdError       the text is not an event id
│   └── InvalidEventError         user, type, payload, key, group or meta is unacceptable
│       └── PayloadTooLargeError  the payload's JSON is over the limit
├── BackendError                  a store, router or presence tracker failed; `.backend` names it
│   ├── PushRejectedError         certainly not stored
│   │   └── OverloadedError       not tried: too many pushes are pending
│   ├── PushUncertainError        the outcome is unknown: repeat with the same key
│   └── BackendUnavailableError   a read failed; safe to repeat
└── CodecError                    the bytes are not an event of a known version
```

A driver's own exception appears only as the `__cause__` of one of these. Cancellation is never caught or wrapped.
"""

from __future__ import annotations


class NotifyError(Exception):
    """The parent of all errors of this library."""


class UsageError(NotifyError):
    """The call itself is wrong. Nothing was stored, and the same call would fail again."""


class ClosedError(UsageError):
    """The notifier, stream, store, router or tracker is closed."""


class SlowConsumerError(ClosedError):
    """The stream was ended because its reader was more than `max_lag` live events behind.

    Attributes:
        last_id: subscribe from here to continue without loss.
    """

    def __init__(self, message: str, *, last_id: str) -> None:
        super().__init__(message)
        self.last_id = last_id


class DisconnectedError(ClosedError):
    """The stream was ended by `Notifier.disconnect`, or because its `expires_at` has come.

    Attributes:
        reason: the text given to `disconnect`; `"expired"` after `expires_at`.
        last_id: subscribe from here to continue without loss, if that is allowed.
    """

    def __init__(self, message: str, *, reason: str, last_id: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.last_id = last_id


class InvalidEventIdError(UsageError):
    """The text is not an event id (see `notify.ids`)."""


class InvalidEventError(UsageError):
    """The event's user, type, payload, key, group or meta is unacceptable."""


class PayloadTooLargeError(InvalidEventError):
    """The payload's JSON is over the limit.

    Attributes:
        size: bytes of the encoded payload.
        limit: bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the payload is {size} bytes of JSON; the limit is {limit}")
        self.size = size
        self.limit = limit


class BackendError(NotifyError):
    """A store, router or presence tracker failed.

    Attributes:
        backend: the name of the part that failed, for example its class name.
    """

    def __init__(self, message: str, *, backend: str = "") -> None:
        super().__init__(message)
        self.backend = backend


class PushRejectedError(BackendError):
    """The event is not stored and will not be: pushing again is safe."""


class OverloadedError(PushRejectedError):
    """Too many pushes are pending, so this one was not tried. Slow down and push again."""


class PushUncertainError(BackendError):
    """The event may or may not be stored. Repeat the push with the same `key` to learn which."""


class BackendUnavailableError(BackendError):
    """A read failed because the backend did not answer. Nothing was changed; safe to repeat."""


class CodecError(NotifyError):
    """The bytes are not an event in a version that this library reads."""
