"""Records that are made from the rows of a database."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from notify.dispatch.abc import (
    Claim,
    Delivery,
    Notification,
    RecipientRecord,
    State,
    claims_of,
    delivery_of,
    delivery_row,
    millis,
    notification_row,
    recipient_row,
)

NOW = datetime(2027, 1, 5, 12, tzinfo=UTC)
DELIVERY = Delivery(
    "d", "n", "alice", "email", "e", State.SENDING, NOW, None, 3, "push", 1.5, 4, 2, "why", "p7", NOW, NOW, None
)
CLAIM = Claim(DELIVERY, Notification("n", "t", b"{}", NOW), RecipientRecord("n", "alice", b"[]", b"{}"), True)

(MADE,) = claims_of(
    [(*delivery_row(DELIVERY, millis(NOW)), *notification_row(CLAIM.notification), *recipient_row(CLAIM.recipient))]
)
PAIRS: list[tuple[Any, Any]] = [
    (MADE, CLAIM),
    (MADE.delivery, DELIVERY),
    (MADE.recipient, CLAIM.recipient),
    (delivery_of(delivery_row(DELIVERY, millis(NOW))), DELIVERY),
]


@pytest.mark.parametrize(("made", "usual"), PAIRS)
def test_a_record_from_a_row_is_like_any_other(made: Any, usual: Any) -> None:
    """Nothing tells it from one that was made by its class: it is of that class, equal, frozen, and can be copied."""
    assert type(made) is type(usual)
    assert (made, hash(made), repr(made)) == (usual, hash(usual), repr(usual))
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == replace(made) == usual
    name = fields(made)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, None)
    with pytest.raises(FrozenInstanceError):
        delattr(made, name)
    assert not hasattr(made, "__dict__")
