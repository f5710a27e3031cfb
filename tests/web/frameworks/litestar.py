"""Litestar."""

from __future__ import annotations

from typing import Any

import litestar
from litestar.config.compression import CompressionConfig
from litestar.response import Stream

from notify import Notifier
from notify.web.litestar import event_stream
from tests.web.frameworks import parts


def app(notifier: Notifier, *, middleware: str = "", **options: Any) -> parts.App:
    @litestar.get("/live/{user:str}")
    async def live(request: litestar.Request[Any, Any, Any]) -> litestar.Response[Any]:
        return event_stream(request, notifier, request.path_params["user"], **options)

    @litestar.get("/sync/{user:str}", sync_to_thread=True)
    def live_sync(request: litestar.Request[Any, Any, Any]) -> litestar.Response[Any]:
        return event_stream(request, notifier, request.path_params["user"], **options)

    @litestar.get("/plain/{user:str}")
    async def plain(request: litestar.Request[Any, Any, Any]) -> Stream:
        return Stream(parts.frames(notifier, request.path_params["user"]), media_type=parts.SSE)

    mounted = litestar.asgi("/notify", is_mount=True, copy_scope=True)(parts.web(notifier))
    compression = CompressionConfig("gzip", minimum_size=1) if middleware == "gzip" else None
    return litestar.Litestar([live, live_sync, plain, mounted], compression_config=compression, logging_config=None)
