"""`event_stream` for Litestar: a stream as the response of a handler.

```python
@get("/live")
async def live(request: Request) -> Response:
    return event_stream(request, notifier, request.user)
```
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from notify import Notifier
from notify._asgi import Identity

from ._endpoint import EventStream, missing

if TYPE_CHECKING:
    from litestar import Request, Response


def event_stream(
    request: Request[Any, Any, Any], notifier: Notifier[Any], user: str | Identity, **options: Any
) -> Response[Any]:
    """Return a response that is a stream of this user's events, with all that `GET /stream` of `NotifyApp` has.

    Args:
        request: where to continue, `?events=typed` and `?address=` are read from it.
        notifier: streams come from it.
        user: whose events are streamed: a user id or an `Identity`. The handler has made sure who it is.
        options: as for `notify.web.starlette.event_stream`.

    Raises:
        UsageError: an argument is unacceptable.
        ModuleNotFoundError: Litestar is not installed.
    """
    scope: Any = request.scope
    return _response_class()(EventStream(notifier, user, scope, **options))


@cache
def _response_class() -> Callable[[EventStream], Response[Any]]:
    try:
        from litestar import Response
        from litestar.response.base import ASGIResponse
    except ModuleNotFoundError as error:
        raise missing("Litestar", "litestar") from error

    class EventStreamASGIResponse(ASGIResponse):
        """Sends by itself."""

        def __init__(self, stream: EventStream, **options: Any) -> None:
            super().__init__(**options)
            self._stream = stream

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            mine = {"content-type", "content-length"}
            self._stream.add_headers(header for header in self.encode_headers() if header[0].decode() not in mine)
            await self._stream(scope, receive, send)
            await self.after_response()

    class EventStreamResponse(Response[Any]):
        """Becomes an application with the headers and cookies of the handler."""

        def __init__(self, stream: EventStream) -> None:
            super().__init__(b"", media_type="text/event-stream", status_code=stream.status)
            self._stream = stream

        def to_asgi_response(self, app: Any, request: Any, **options: Any) -> ASGIResponse:
            headers = {**(options.get("headers") or {}), **self.headers}
            cookies = [*self.cookies, *(options.get("cookies") or ())]
            return EventStreamASGIResponse(
                self._stream,
                background=self.background or options.get("background"),
                cookies=cookies,
                headers=headers,
                media_type="text/event-stream",
                status_code=self.status_code,
            )

    return EventStreamResponse
