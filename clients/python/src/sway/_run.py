"""The run log: what ran, how it ended, what it cost."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from ._errors import ProtocolError


@dataclass(frozen=True)
class Limits:
    """Limits that hold for a run: times in ms, sizes in bytes, CPUs in thousandths."""

    timeout_ms: int
    memory_bytes: int
    cpus_milli: int
    pids: int
    output_bytes: int
    tmp_bytes: int


@dataclass(frozen=True)
class Answer:
    """What a handler answered: JSON text, or its stack trace."""

    result: str | None
    error: str | None
    duration_ms: int


@dataclass(frozen=True)
class Run:
    """One execution of a job. ``docs/http-api.md`` tells every figure.

    Attributes:
        id: Number of the run.
        started_at: RFC 3339.
        duration_ms: From the start of the process to its end; none while it runs.
        exit_code: 128 + signal where one ended it; none where it never started.
        cause: ``exited``, ``timeout``, ``memory_exceeded``, ``output_limit``, ``cancelled``,
            ``policy`` or ``infrastructure``; none while it runs.
        message: What to tell beside the cause.
        bytes_fetched: Bytes on the wire that its reads moved from the fileserver.
        memory_peak_bytes: Highest sample of anonymous and shared memory, where it was measured.
        cpu_ms: User and system time of its processes.
        cpus_peak_milli: Most CPUs over half a second, in thousandths.
        pooled: Whether its container was made before the job came.
        stdout: Whole up to the job's limit, invalid UTF-8 replaced; none in listings.
        stderr: Likewise.
    """

    id: int
    job_id: str
    filename: str
    username: str
    image: str
    manifest: str
    started_at: str
    limits: Limits
    memory_cache_hits: int
    disk_cache_hits: int
    server_fetches: int
    memory_cache_bytes: int
    disk_cache_bytes: int
    bytes_fetched: int
    queued_ms: int
    mount_ms: int
    start_ms: int
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: int | None = None
    exit_code: int | None = None
    cause: str | None = None
    message: str | None = None
    first_output_ms: int | None = None
    memory_peak_bytes: int | None = None
    cpu_ms: int | None = None
    cpus_peak_milli: int | None = None
    output_files: int | None = None
    output_files_bytes: int | None = None
    trace: str = "none"
    trace_pushed_bytes: int = 0
    trace_used_bytes: int | None = None
    trace_missed_bytes: int = 0
    records_trace: bool = False
    pooled: bool = False
    answer: Answer | None = None
    stdout: str | None = None
    stderr: str | None = None

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Run:
        """Read a run as the worker tells it; fields of newer workers are left out."""
        answer = told.get("answer")
        parts = {
            "limits": _known(Limits, told.get("limits")),
            "answer": None if answer is None else _known(Answer, answer),
        }
        run: Run = _known(cls, {**told, **parts})
        return run


def _known(kind: Any, told: Any) -> Any:
    """Make a dataclass of those fields that it has."""
    if not isinstance(told, dict):
        raise ProtocolError(f"a run without {kind.__name__.lower()}: {told!r}")
    missing = [
        field.name for field in fields(kind) if field.name not in told and field.default is MISSING
    ]
    if missing:
        raise ProtocolError(f"a {kind.__name__.lower()} without {', '.join(missing)}")
    return kind(**{field.name: told[field.name] for field in fields(kind) if field.name in told})
