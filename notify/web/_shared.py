"""What applications import from here, and other rooms use as well."""

from notify._asgi import Identity as Identity
from notify._asgi import Request as Request
from notify._asgi import WebError as WebError
