"""Notifications that a user can list, count, read and dismiss, in the same state on every device."""

from ._fold import InboxFold as InboxFold
from ._folds import InboxFolds as InboxFolds
from ._hooks import AfterChange as AfterChange
from ._hooks import AfterSend as AfterSend
from ._hooks import BeforeSend as BeforeSend
from ._hooks import Hook as Hook
from ._inbox import Inbox as Inbox
from ._stream import InboxStream as InboxStream
from .abc import Change as Change
from .abc import Counts as Counts
from .abc import Follow as Follow
from .abc import InboxRetention as InboxRetention
from .abc import InboxStore as InboxStore
from .abc import Item as Item
from .abc import ItemPage as ItemPage

__all__ = [
    "AfterChange",
    "AfterSend",
    "BeforeSend",
    "Change",
    "Counts",
    "Follow",
    "Hook",
    "Inbox",
    "InboxFold",
    "InboxFolds",
    "InboxRetention",
    "InboxStore",
    "InboxStream",
    "Item",
    "ItemPage",
]
