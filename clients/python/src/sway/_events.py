"""What happens to a job, as its event stream tells it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Union

from ._errors import ProtocolError
from ._run import Run
from ._sse import RawEvent


@dataclass(frozen=True)
class StateChanged:
    """The job is in another state now."""

    id: int
    state: str


@dataclass(frozen=True)
class OutputWritten:
    """The job wrote bytes.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        data: The bytes, as it wrote them; a piece may end within a line or a character.
    """

    id: int
    stream: str
    data: bytes


@dataclass(frozen=True)
class OutputTruncated:
    """Output of a stream beyond its limit is dropped from here on."""

    id: int
    stream: str


@dataclass(frozen=True)
class UsageSampled:
    """What the job uses, about twice a second while it runs, for who listens then.

    Attributes:
        elapsed_ms: Since the start of its process.
        memory_bytes: Anonymous and shared memory.
        cpu_ms: User and system time of all its processes.
        id: None: it is not told again.
    """

    elapsed_ms: int
    memory_bytes: int
    cpu_ms: int
    id: None = None


@dataclass(frozen=True)
class JobEnded:
    """The job is over; nothing follows.

    Attributes:
        run: Its run without the outputs; none where it never ran.
    """

    id: int
    state: str
    run: Run | None


Event = Union[StateChanged, OutputWritten, OutputTruncated, UsageSampled, JobEnded]


def parse_event(raw: RawEvent) -> Event | None:
    """Read an event of ``GET /v1/jobs/{id}/logs``; none where only a newer client knows it."""
    try:
        told = json.loads(raw.data)
        kind = told["event"]
        if kind == "usage":
            return UsageSampled(told["elapsed_ms"], told["memory_bytes"], told["cpu_ms"])
        if kind == "state":
            return StateChanged(int(raw.id), told["state"])
        if kind == "output":
            return OutputWritten(
                int(raw.id), told["stream"], base64.b64decode(told["data"], validate=True)
            )
        if kind == "truncated":
            return OutputTruncated(int(raw.id), told["stream"])
        if kind == "end":
            run = told.get("run")
            run = None if run is None else Run.from_json(run)
            return JobEnded(int(raw.id), told["state"], run)
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"a job's event is not understood: {error!r}") from error
    return None
