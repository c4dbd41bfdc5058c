"""Server-sent events (WHATWG HTML, 9.2.6), as far as the worker sends them.

UTF-8 lines with ``id``, ``event`` and ``data``; comments keep the connection alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ._errors import ProtocolError

LINE_BYTES_MAX = 8 << 20
"""The longest line: an event's data is one line of JSON."""


class RawEvent(NamedTuple):
    """One event: its id, for ``Last-Event-ID``, and its lines of data, joined."""

    id: str
    data: str


class EventDecoder:
    """Collects pieces of a body until they hold events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._id = ""
        self._data: list[str] = []

    def push(self, piece: bytes) -> Iterator[RawEvent]:
        """Add the next piece of the body; gives the events that it completes."""
        self._buffer += piece
        for line in self._lines():
            if not line:
                if self._data:
                    yield RawEvent(self._id, "\n".join(self._data))
                self._id, self._data = "", []
                continue
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if name == "id":
                self._id = value
            elif name == "data":
                self._data.append(value)
            # The event's name is in its data too; an empty name is a comment.

    def _lines(self) -> Iterator[str]:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if self._searched > LINE_BYTES_MAX:
                    raise ProtocolError("a job's events: a line is too long")
                return
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise ProtocolError("a job's events: a line is not UTF-8") from error
