"""Channels: the inbox, e-mail, web push, FCM, SMS, webhooks and the log; and what is put around them.

Each needs its extra only when one is made: `email`, `webpush`, `fcm`, `sms`, `webhook`.
"""

from ._breaker import Breaker as Breaker
from ._email import EmailChannel as EmailChannel
from ._failover import Failover as Failover
from ._failover import RoundRobin as RoundRobin
from ._fcm import FcmChannel as FcmChannel
from ._in_app import InAppChannel as InAppChannel
from ._log import LogChannel as LogChannel
from ._rate import Limiter as Limiter
from ._rate import Rate as Rate
from ._rate import RateLimited as RateLimited
from ._sandbox import Sandbox as Sandbox
from ._sms import SmsChannel as SmsChannel
from ._sms import SmsGateway as SmsGateway
from ._sms import SmsRequest as SmsRequest
from ._sms_gateways import HttpSmsGateway as HttpSmsGateway
from ._sms_gateways import TwilioSmsGateway as TwilioSmsGateway
from ._web_push import WebPushChannel as WebPushChannel
from ._web_push_crypto import generate_vapid_key as generate_vapid_key
from ._webhook import WebhookChannel as WebhookChannel

__all__ = [
    "Breaker",
    "EmailChannel",
    "Failover",
    "FcmChannel",
    "HttpSmsGateway",
    "InAppChannel",
    "Limiter",
    "LogChannel",
    "Rate",
    "RateLimited",
    "RoundRobin",
    "Sandbox",
    "SmsChannel",
    "SmsGateway",
    "SmsRequest",
    "TwilioSmsGateway",
    "WebPushChannel",
    "WebhookChannel",
    "generate_vapid_key",
]
