"""`event_stream` for Django under ASGI: a stream as the response of a view.

```python
async def live(request):
    return event_stream(request, notifier, request.user.get_username())
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notify import Notifier, UsageError
from notify._asgi import Identity

from ._endpoint import EventStream, missing

if TYPE_CHECKING:
    from django.http import HttpRequest  # type: ignore[import-untyped]
    from django.http.response import HttpResponseBase  # type: ignore[import-untyped]


def event_stream(
    request: HttpRequest, notifier: Notifier[Any], user: str | Identity, **options: Any
) -> HttpResponseBase:
    """Return a response that is a stream of this user's events, with all that `GET /stream` of `NotifyApp` has.

    It is a `StreamingHttpResponse`, which middleware may change as any other. `Content-Encoding: identity` keeps
    Django's `GZipMiddleware` from compressing it, which would hold the events back. The view may be synchronous or
    asynchronous.

    Args:
        request: where to continue, `?events=typed` and `?address=` are read from it.
        notifier: streams come from it; one of the event loop on which Django runs.
        user: whose events are streamed: a user id or an `Identity`. The view has made sure who it is.
        options: as for `notify.web.starlette.event_stream`.

    Raises:
        UsageError: an argument is unacceptable, or the request came by WSGI.
        ModuleNotFoundError: Django is not installed.
    """
    try:
        from django.http import HttpResponse, StreamingHttpResponse
    except ModuleNotFoundError as error:
        raise missing("Django", "django") from error
    scope = getattr(request, "scope", None)
    if scope is None:
        raise UsageError(
            "event_stream() needs Django under ASGI, but this request came by WSGI, where a stream would occupy a "
            "worker: serve at least this URL by get_asgi_application() under uvicorn, hypercorn or daphne"
        )
    stream = EventStream(notifier, user, scope, **options)
    response: HttpResponseBase
    if stream.reply is None:
        response = StreamingHttpResponse(stream.chunks(), headers={"Content-Encoding": "identity"})
    else:
        response = HttpResponse(stream.reply.body, status=stream.status)
    for name, value in stream.headers:
        response.headers[name] = value
    return response
