"""Which sites may send requests."""

from __future__ import annotations

from ._options import WebOptions
from ._request import Request


def check(request: Request, options: WebOptions) -> None:
    """Refuse a request of another site; add what the answer to an allowed one needs to `request.response_headers`.

    Raises:
        WebError: 403.
    """
