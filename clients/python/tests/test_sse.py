from __future__ import annotations

import pytest

import sway
from sway._events import parse_event
from sway._sse import LINE_BYTES_MAX, EventDecoder, RawEvent


def test_events_survive_any_cutting_of_the_body() -> None:
    body = (
        ': hello\n\nid: 7\nevent: output\ndata: {"a":1}\n\n:\n\n'
        "id:8\r\ndata:é\r\ndata: y\r\n\r\nid: 9\ndata: lost"
    ).encode()
    for size in range(1, len(body) + 1):
        decoder = EventDecoder()
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        events = [event for piece in pieces for event in decoder.push(piece)]
        assert events == [RawEvent("7", '{"a":1}'), RawEvent("8", "é\ny")]


def test_events_of_newer_workers_are_passed_over_and_broken_ones_told() -> None:
    assert parse_event(RawEvent("", '{"event": "of_tomorrow"}')) is None
    state = parse_event(RawEvent("3", '{"event": "state", "state": "running", "new": 1}'))
    assert state == sway.StateChanged(3, "running")
    for number, data in [
        ("", '{"event": "state", "state": "running"}'),
        ("1", '{"event": "state"}'),
        ("1", "{"),
        ("1", "[]"),
        ("1", '{"event": "output", "stream": "stdout", "data": "!"}'),
        ("1", '{"event": "end", "state": "completed", "run": {}}'),
    ]:
        with pytest.raises(sway.ProtocolError):
            parse_event(RawEvent(number, data))


def test_an_endless_line_is_an_error() -> None:
    with pytest.raises(sway.ProtocolError, match="too long"):
        list(EventDecoder().push(b"x" * (LINE_BYTES_MAX + 1)))


def test_a_line_that_is_no_text_is_an_error() -> None:
    with pytest.raises(sway.ProtocolError, match="UTF-8"):
        list(EventDecoder().push(b"data: \xff\n"))
