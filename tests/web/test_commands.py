"""What a WebSocket client may send: anything else is answered, or ends the connection."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notify.web._commands import (
    MAX_COMMAND,
    MAX_WAITING,
    Allowance,
    Command,
    CommandError,
    CommandQueue,
    answer,
    parse_command,
    position_of,
    refusal,
)


def text(value: Any) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": value if isinstance(value, str) else json.dumps(value)}


def refused(message: dict[str, Any]) -> CommandError:
    with pytest.raises(CommandError) as caught:
        parse_command(message)
    return caught.value


@pytest.mark.parametrize("ref", [0, 7, -1, "a", "", None])
def test_a_command_has_its_reference_and_its_name(ref: Any) -> None:
    """A reference is a whole number, a short text or absent."""
    command = parse_command(text({"ref": ref, "do": "ping", "more": [1]}))
    assert command == Command(ref, "ping", {"ref": ref, "do": "ping", "more": [1]})


@pytest.mark.parametrize("bad", [True, 1.5, [], {}, "x" * 65, 1 << 53, -(1 << 53)])
def test_a_reference_that_could_not_be_sent_back_is_refused(bad: Any) -> None:
    """A client in JavaScript reads every reference that is accepted as it was."""
    error = refused(text({"ref": bad, "do": "ping"}))
    assert (error.code, error.ref, error.is_fatal) == ("bad_ref", None, False)


@pytest.mark.parametrize("bad", ["", "{", "[]", "1", "null", '"ping"', "[" * 5000, '{"a":' * 1500, "1" * 5000, "nan"])
def test_what_is_not_an_object_is_answered(bad: str) -> None:
    """Bad JSON, thousands of brackets and numbers of thousands of digits are errors like any other."""
    error = refused(text(bad))
    assert (error.code, error.ref, error.is_fatal) == ("bad_json", None, False)


@pytest.mark.parametrize("bad", [None, 1, [], {"a": 1}])
def test_a_command_without_a_name_is_answered_by_its_reference(bad: Any) -> None:
    """The client learns which of its commands was meant."""
    error = refused(text({"ref": 3, "do": bad}))
    assert (error.code, error.ref) == ("bad_command", 3)
    assert json.loads(refusal(error)) == {"ref": 3, "error": {"code": "bad_command", "message": error.message}}


def test_binary_and_oversized_frames_are_fatal() -> None:
    """No client of this protocol sends them; the size counts bytes."""
    assert refused({"type": "websocket.receive", "bytes": b"{}"}).is_fatal
    assert refused({"type": "websocket.receive", "bytes": b"{}", "text": None}).is_fatal
    assert refused(text("x" * (MAX_COMMAND + 1))).is_fatal
    assert refused(text("é" * (MAX_COMMAND // 2 + 1))).is_fatal
    filling = MAX_COMMAND - len(json.dumps({"do": "ping", "x": ""}))
    assert parse_command(text({"do": "ping", "x": "x" * filling})).do == "ping"


@settings(deadline=None)
@given(
    st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
)
def test_any_text_is_a_command_or_an_error(sent: str) -> None:
    """Nothing else is raised."""
    with suppress(CommandError):
        assert parse_command(text(sent)).arguments


@pytest.mark.parametrize("name", ["position", "last_id", "lastEventId", "last_event_id"])
def test_a_position_may_have_each_of_the_names_in_use(name: str) -> None:
    """As in the query of a URL; none, null and an empty one mean "from now on"."""
    assert position_of(parse_command(text({"do": "subscribe", name: "5-1"}))) == "5-1"
    assert position_of(parse_command(text({"do": "subscribe", name: ""}))) == ""
    assert position_of(parse_command(text({"do": "subscribe", name: None}))) == ""
    with pytest.raises(CommandError, match=name):
        position_of(parse_command(text({"ref": 1, "do": "subscribe", name: 5})))


def test_an_answer_repeats_the_reference() -> None:
    """With whatever the command returns beside it."""
    assert json.loads(answer("a", position="5-1")) == {"ref": "a", "ok": True, "position": "5-1"}


def test_an_allowance_is_used_up_and_fills_again() -> None:
    """A burst, then a rate, and never more than a burst after a pause."""
    allowance = Allowance(burst=3, rate=2.0)
    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(10.5), allowance.take(10.5)] == [True, False]
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]


class TestQueue:
    def test_commands_and_errors_wait_in_order(self) -> None:
        """What can be answered is answered in turn."""
        queue = CommandQueue()
        for frame in ({"ref": 1, "do": "ping"}, "{", {"ref": 2, "do": "ping"}):
            queue.put(text(frame), 0.0)
        first, second, third = queue.take(), queue.take(), queue.take()
        assert (first, third) == (
            Command(1, "ping", {"ref": 1, "do": "ping"}),
            Command(2, "ping", {"ref": 2, "do": "ping"}),
        )
        assert isinstance(second, CommandError)
        assert queue.take() is None

    def test_a_fatal_frame_comes_before_what_waits(self) -> None:
        """The connection ends; nothing that follows is kept."""
        queue = CommandQueue()
        queue.put(text({"do": "ping"}), 0.0)
        queue.put({"type": "websocket.receive", "bytes": b"x"}, 0.0)
        queue.put(text({"do": "ping"}), 0.0)
        for _ in range(2):
            with pytest.raises(CommandError, match="text frames"):
                queue.take()

    def test_a_burst_that_is_too_large_is_fatal(self) -> None:
        """Within a moment more than the allowance."""
        queue = CommandQueue()
        for _ in range(60):
            queue.put(text({"do": "ping"}), 0.0)
        with pytest.raises(CommandError, match="too fast"):
            queue.take()

    def test_what_waits_is_bounded(self) -> None:
        """Slow enough, but the answers are not read, so nothing is taken from the queue."""
        queue = CommandQueue()
        for second in range(MAX_WAITING):
            queue.put(text({"do": "ping"}), float(second))
        assert queue.take() is not None
        for second in range(2):
            queue.put(text({"do": "ping"}), 1000.0 + second)
        with pytest.raises(CommandError, match="too fast"):
            queue.take()
