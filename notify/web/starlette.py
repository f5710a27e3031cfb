"""`event_stream` for Starlette and FastAPI: a stream as the response of an endpoint.

```python
@app.get("/live")
async def live(request: Request, user: Annotated[str, Depends(current_user)]) -> Response:
    return event_stream(request, notifier, user)
```
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from notify import Notifier
from notify._asgi import Identity, Receive, Scope, Send

from ._endpoint import EventStream, missing

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def event_stream(request: Request, notifier: Notifier[Any], user: str | Identity, **options: Any) -> Response:
    """Return a response that is a stream of this user's events, with all that `GET /stream` of `NotifyApp` has.

    Args:
        request: where to continue, `?events=typed` and `?address=` are read from it.
        notifier: streams come from it.
        user: whose events are streamed: a user id or an `Identity`. The endpoint has made sure who it is.
        options: `addresses`, `session` and `expires_at` of an `Identity`; `disconnected_since`, a `Notifier.moment`
            from before the client was authenticated; and the keywords of `NotifyApp`: `heartbeat`, `retry`,
            `lifetime`, `send_timeout`, `max_streams`, `max_streams_per_user`, `drain`, `origins`. The endpoints that
            have the same options share the limits.

    Raises:
        UsageError: an argument is unacceptable.
        ModuleNotFoundError: Starlette is not installed.
    """
    return _response_class()(EventStream(notifier, user, request.scope, **options))


@cache
def _response_class() -> Callable[[EventStream], Response]:
    try:
        from starlette.responses import Response
    except ModuleNotFoundError as error:
        raise missing("Starlette", "starlette") from error

    class EventStreamResponse(Response):
        """Sends by itself: no task of the framework stands between the stream and the server."""

        media_type = "text/event-stream"

        def __init__(self, stream: EventStream) -> None:
            self._stream = stream
            self.status_code = stream.status
            self.background = None
            self.body = b""
            self.init_headers({"content-length": ""})
            del self.headers["content-length"]
            del self.headers["content-type"]  # that of the stream, or of what is answered in its place

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            self._stream.add_headers(self.raw_headers)
            await self._stream(scope, receive, send)
            if self.background is not None:
                await self.background()

    return EventStreamResponse
