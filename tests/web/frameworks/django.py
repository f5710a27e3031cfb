"""Django, with the mounted application beside it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import StreamingHttpResponse
from django.test.utils import override_settings
from django.urls import path

from notify import Notifier
from notify.web import mount
from notify.web.django import event_stream
from tests.web.frameworks import parts

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=None, USE_TZ=True)


class Urls:
    """A root configuration of URLs."""

    def __init__(self, *patterns: Any) -> None:
        self.urlpatterns = patterns


def app(notifier: Notifier, *, middleware: str = "", **options: Any) -> parts.App:
    async def live(request: Any, user: str) -> Any:
        return event_stream(request, notifier, user, **options)

    def live_sync(request: Any, user: str) -> Any:
        return event_stream(request, notifier, user, **options)

    async def plain(request: Any, user: str) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts.frames(notifier, user), content_type=parts.SSE)

    urls = Urls(path("live/<user>", live), path("sync/<user>", live_sync), path("plain/<user>", plain))
    chosen = {"gzip": ["django.middleware.gzip.GZipMiddleware"], "": []}[middleware]
    with override_settings(MIDDLEWARE=chosen):
        handler = ASGIHandler()

    async def with_urls(scope: Any, receive: Any, send: Any) -> None:
        settings.ROOT_URLCONF = urls  # one application at a time in this process
        await handler(scope, receive, send)

    return mount("/notify", parts.web(notifier), with_urls)
