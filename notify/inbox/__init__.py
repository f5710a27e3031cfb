"""Notifications that are listed, counted, read, replaced and dismissed, on all devices of a user at once."""

from ._fold import InboxFold as InboxFold
from ._folds import InboxFolds as InboxFolds
from .abc import Change as Change
from .abc import Counts as Counts
from .abc import Follow as Follow
from .abc import InboxRetention as InboxRetention
from .abc import InboxStore as InboxStore
from .abc import Item as Item
from .abc import ItemPage as ItemPage

__all__ = ["Change", "Counts", "Follow", "InboxFold", "InboxFolds", "InboxRetention", "InboxStore", "Item", "ItemPage"]
