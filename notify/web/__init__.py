"""Notifications in a browser: an ASGI application with server-sent events, WebSocket and polling.

```python
app = NotifyApp(notifier, authenticate=lambda request: request.cookies.get("user"))
```
"""

from ._app import NotifyApp as NotifyApp
from ._mount import mount as mount
from ._reply import WebError as WebError
from ._request import Identity as Identity
from ._request import Request as Request

__all__ = ["Identity", "NotifyApp", "Request", "WebError", "mount"]
