"""Signed HTTP: events to other systems as webhooks, and from one process to another.

`WebhookRouter` posts every event that is stored to the endpoints that want it; `WebhookReceiver` is an ASGI application
that verifies such posts and delivers what they carry. Both follow the Standard Webhooks specification, so that a
receiver in any language can use one of its libraries. The headers are `webhook-id`, `webhook-timestamp` and
`webhook-signature`.

Sending needs the extra `webhook`; signing and receiving need no extra.
"""

from ._endpoint import WebhookEndpoint as WebhookEndpoint
from ._receiver import WebhookReceiver as WebhookReceiver
from ._router import WebhookDeliveryError as WebhookDeliveryError
from ._router import WebhookRouter as WebhookRouter
from ._signature import WebhookVerificationError as WebhookVerificationError
from ._signature import sign as sign
from ._signature import verify as verify

__all__ = [
    "WebhookDeliveryError",
    "WebhookEndpoint",
    "WebhookReceiver",
    "WebhookRouter",
    "WebhookVerificationError",
    "sign",
    "verify",
]
