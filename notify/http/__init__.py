"""HTTP requests to other systems: what a client promises, and a client that keeps out of private networks.

`HttpPool` is what webhooks and channels use by default. Pass another `HttpClient` to them where requests have to go
through a proxy, or through the client that an application has already.
"""

from ._client import HttpAnswer as HttpAnswer
from ._client import HttpClient as HttpClient
from ._client import HttpError as HttpError
from ._pool import HttpPool as HttpPool

__all__ = ["HttpAnswer", "HttpClient", "HttpError", "HttpPool"]
