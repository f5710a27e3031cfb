"""Notifications in a browser: an ASGI application with server-sent events, WebSocket and polling.

```python
app = NotifyApp(notifier, authenticate=lambda request: request.cookies.get("user"))
```
"""

from ._app import NotifyApp as NotifyApp
from ._credentials import bearer_token as bearer_token
from ._credentials import end_session as end_session
from ._credentials import session_id as session_id
from ._endpoint import EventStream as EventStream
from ._mount import mount as mount
from ._shared import Identity as Identity
from ._shared import Request as Request
from ._shared import WebError as WebError

__all__ = [
    "EventStream",
    "Identity",
    "NotifyApp",
    "Request",
    "WebError",
    "bearer_token",
    "end_session",
    "mount",
    "session_id",
]
