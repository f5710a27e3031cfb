"""What the applications over HTTP share: requests, answers, who a client is, which pages may send what.

`notify.web` and `notify.dispatch` stand on it, so that their errors have one shape, and one `authenticate` serves both.
"""

from ._files import DISPATCH_FILES as DISPATCH_FILES
from ._files import FILES as FILES
from ._files import file_reply as file_reply
from ._gate import SAFE as SAFE
from ._gate import CrossSiteRules as CrossSiteRules
from ._gate import is_own_origin as is_own_origin
from ._gate import parsed as parsed
from ._identify import CHALLENGE as CHALLENGE
from ._identify import WITHIN as WITHIN
from ._identify import Authenticate as Authenticate
from ._identify import Identification as Identification
from ._identify import WrongIdentityError as WrongIdentityError
from ._identify import checked as checked
from ._identify import still_valid as still_valid
from ._json import check_json as check_json
from ._json import parsed_json as parsed_json
from ._json import read_object as read_object
from ._reply import JSON as JSON
from ._reply import JSON_HEADERS as JSON_HEADERS
from ._reply import NO_STORE as NO_STORE
from ._reply import RETRY_AFTER as RETRY_AFTER
from ._reply import Reply as Reply
from ._reply import WebError as WebError
from ._reply import error_value as error_value
from ._reply import identify_and_read as identify_and_read
from ._reply import is_closed as is_closed
from ._reply import log_gone as log_gone
from ._reply import read_body as read_body
from ._reply import reply_to as reply_to
from ._reply import send_part as send_part
from ._reply import send_whole as send_whole
from ._reply import web_error as web_error
from ._reply import while_open as while_open
from ._reply import without_body as without_body
from ._request import ASGIApp as ASGIApp
from ._request import Headers as Headers
from ._request import Identity as Identity
from ._request import Message as Message
from ._request import Receive as Receive
from ._request import Request as Request
from ._request import Scope as Scope
from ._request import Send as Send

__all__ = [  # noqa: RUF022 - sorted by code points, as everywhere here
    "ASGIApp",
    "Authenticate",
    "CHALLENGE",
    "CrossSiteRules",
    "DISPATCH_FILES",
    "FILES",
    "Headers",
    "Identification",
    "Identity",
    "JSON",
    "JSON_HEADERS",
    "Message",
    "NO_STORE",
    "RETRY_AFTER",
    "Receive",
    "Reply",
    "Request",
    "SAFE",
    "Scope",
    "Send",
    "WITHIN",
    "WebError",
    "WrongIdentityError",
    "check_json",
    "checked",
    "error_value",
    "file_reply",
    "identify_and_read",
    "is_closed",
    "is_own_origin",
    "log_gone",
    "parsed",
    "parsed_json",
    "read_body",
    "read_object",
    "reply_to",
    "send_part",
    "send_whole",
    "still_valid",
    "web_error",
    "while_open",
    "without_body",
]
