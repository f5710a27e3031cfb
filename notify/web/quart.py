"""`event_stream` for Quart: a stream as the response of a view.

```python
@app.get("/live")
async def live():
    return event_stream(request, notifier, current_user.auth_id)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notify import Notifier
from notify._asgi import Identity

from ._endpoint import EventStream, missing

if TYPE_CHECKING:
    from quart import Request, Response


def event_stream(request: Request, notifier: Notifier[Any], user: str | Identity, **options: Any) -> Response:
    """Return a response that is a stream of this user's events, with all that `GET /stream` of `NotifyApp` has.

    Quart's `RESPONSE_TIMEOUT`, a minute unless configured, does not apply to it.

    Args:
        request: `quart.request`: where to continue, `?events=typed` and `?address=` are read from it.
        notifier: streams come from it.
        user: whose events are streamed: a user id or an `Identity`. The view has made sure who it is.
        options: as for `notify.web.starlette.event_stream`.

    Raises:
        UsageError: an argument is unacceptable.
        ModuleNotFoundError: Quart is not installed.
    """
    try:
        from quart import Response
    except ModuleNotFoundError as error:
        raise missing("Quart", "quart") from error
    scope: Any = request.scope
    stream = EventStream(notifier, user, scope, **options)
    if stream.reply is None:
        response = Response(stream.chunks(), status=200)
    else:
        response = Response(stream.reply.body, status=stream.status)
    for name, value in stream.headers:
        response.headers[name] = value
    response.timeout = None
    return response
