"""A job on a worker: what happens to it, how it ended, what it left."""

from __future__ import annotations

import codecs
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ._deadline import Deadline
from ._errors import JobFailed, Refused, SwayError, Unreachable, WaitTimeout
from ._events import Event, JobEnded, OutputWritten, parse_event
from ._http import ANSWER_BYTES_MAX, CALL_S, IDLE_S, Http, is_passing
from ._program import StrPath
from ._quantity import show_size
from ._run import Run
from ._sse import EventDecoder
from ._unpack import unpack

WAIT_S = 24 * 3600.0
"""How long something is waited for unless the caller says so: a day."""

RECONNECT_S = 30.0
"""How long to try to get back to a job's events after the connection broke."""

_RECONNECT_PAUSE_S = 0.2
_DOWNLOAD_S = 3600.0


@dataclass(frozen=True)
class OutputFile:
    """An entry of ``/output``.

    Attributes:
        path: From ``/output``.
        kind: ``file``, ``folder`` or ``link``.
        bytes: Its length; 0 where it is no file.
    """

    path: str
    kind: str
    bytes: int


class Job:
    """A job that was submitted.

    Attributes:
        id: Short and typeable.
        filename: What runs, by name.
        image: The image, as asked for.
        manifest: What the image's name led to: what runs.
        created_at: When it was submitted, RFC 3339.
    """

    def __init__(self, http: Http, told: dict[str, Any]) -> None:
        self._http = http
        self.id: str = told["id"]
        self.filename: str = told["filename"]
        self.image: str = told["image"]
        self.manifest: str = told["manifest"]
        self.created_at: str = told["created_at"]

    def __repr__(self) -> str:
        return f"<sway.Job {self.id} ({self.filename} in {self.image})>"

    @property
    def status(self) -> str:
        """Where it stands, as the worker says now.

        ``pending`` while an owner has not decided on it; ``approved`` while it waits for a place,
        ``running``; then ``completed`` (exit code 0), ``failed``, ``rejected`` or ``cancelled``.
        """
        return str(self._http.call("GET", self._path())["state"])

    def logs(self, *, after: int = 0, timeout: float = WAIT_S) -> Iterator[Event]:
        """Tell what happened and happens, as it happens, until the job's end.

        Where the connection breaks, it is made again, and goes on after the last event, without
        loss or repetition.

        Args:
            after: The ``id`` of an event; the ones after it are told.
            timeout: Seconds for all of it.

        Raises:
            WaitTimeout: It goes on for longer.
            Unreachable: The worker is away for more than 30 s.
        """
        deadline = Deadline(timeout)
        away: Deadline | None = None
        while True:
            try:
                for event in self._follow(after, deadline):
                    away = None
                    if event is not None:
                        after = event.id or after
                        yield event
                    if isinstance(event, JobEnded):
                        return
            except (Unreachable, Refused) as error:
                if deadline.has_passed:
                    raise self._not_ended(deadline) from None
                away = away or Deadline(RECONNECT_S)
                if not is_passing(error) or away.has_passed:
                    raise
            time.sleep(min(_RECONNECT_PAUSE_S, deadline.left_s))

    def lines(self, stream: str | None = None, *, timeout: float = WAIT_S) -> Iterator[str]:
        """Tell the lines that the job writes, as soon as each is whole, without their ends.

        Args:
            stream: ``stdout`` or ``stderr`` alone; both without it.
            timeout: Seconds for all of them.

        Raises:
            The same as `logs`.
        """
        texts = {"stdout": _LineDecoder(), "stderr": _LineDecoder()}
        if stream is not None:
            texts = {stream: texts[stream]}
        for event in self.logs(timeout=timeout):
            if isinstance(event, OutputWritten) and event.stream in texts:
                yield from texts[event.stream].push(event.data)
        for text in texts.values():
            yield from text.push(b"", final=True)

    def wait(self, timeout: float = WAIT_S) -> Result:
        """Wait for its end.

        Args:
            timeout: Seconds.

        Raises:
            WaitTimeout: It goes on for longer. It is not cancelled by that, unless it was
                submitted with ``detach=False``.
            Unreachable: The worker is away for more than 30 s.
        """
        for event in self.logs(timeout=timeout):
            if isinstance(event, JobEnded):
                if event.run is None:
                    return Result(self, event.state, None)
                told = self._http.call("GET", f"/v1/runs/{event.run.id}")
                return Result(self, event.state, Run.from_json(told))
        raise AssertionError("the events of a job end with its end")

    def cancel(self) -> str:
        """End the job; returns its state then.

        Raises:
            Refused: It has ended already (``job_ended``).
        """
        return str(self._http.call("POST", self._path("/cancel"))["state"])

    def cancel_quietly(self) -> None:
        """End it if it runs, where something else is to be told."""
        # It may have ended, or the worker be away: then nothing is left to do.
        with contextlib.suppress(SwayError):
            self.cancel()

    def outputs(self) -> list[OutputFile]:
        """List what its latest run left in ``/output``, folders before what they hold.

        Raises:
            Refused: There is none (``no_outputs``; the message says why).
        """
        files = self._http.call("GET", self._path("/outputs"))["files"]
        return [OutputFile(file["path"], file["kind"], file["bytes"]) for file in files]

    def output(self, path: str) -> bytes:
        """Return the bytes of one file that it left in ``/output``, of at most 256 MiB.

        Raises:
            Refused: There is none (``no_outputs``, ``output_not_found``).
        """
        place = self._path(f"/outputs/{quote(path, safe='')}")

        def attempt(_: Deadline) -> bytes:
            with self._http.open("GET", place, idle_s=IDLE_S) as response:
                return response.read(ANSWER_BYTES_MAX, Deadline(_DOWNLOAD_S))

        return self._http.repeat(attempt)

    def save_outputs(self, folder: StrPath) -> list[Path]:
        """Bring all that it left in ``/output`` into a new or empty folder; lists the files.

        Raises:
            Refused: There is none (``no_outputs``).
            FileExistsError: The folder holds something.
            ProtocolError: The worker sends what could reach out of the folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty")
        deadline = Deadline(_DOWNLOAD_S)
        with tempfile.TemporaryFile() as archive:
            place = self._path("/outputs?format=tar")
            with self._http.open("GET", place, idle_s=IDLE_S) as response:
                while not deadline.has_passed:
                    piece = response.read_piece(IDLE_S)
                    if not piece:
                        break
                    archive.write(piece)
                else:
                    raise WaitTimeout(f"{self.id}'s output took more than {_DOWNLOAD_S:.0f} s")
            archive.seek(0)
            return unpack(archive, folder)

    def _path(self, rest: str = "") -> str:
        return f"/v1/jobs/{quote(self.id, safe='')}{rest}"

    def _follow(self, after: int, deadline: Deadline) -> Iterator[Event | None]:
        """Tell the events of one connection; none for a sign of life."""
        headers = {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = str(after)
        decoder = EventDecoder()
        idle_s = min(CALL_S, deadline.left_s)
        if not idle_s:
            raise self._not_ended(deadline)
        with self._http.open(
            "GET", self._path("/logs"), headers=headers, idle_s=idle_s
        ) as response:
            while True:
                if deadline.has_passed:
                    raise self._not_ended(deadline)
                piece = response.read_piece(min(IDLE_S, deadline.left_s))
                if not piece:
                    raise Unreachable(f"{self._http.base} ended the events of job {self.id} early")
                yield None
                for raw in decoder.push(piece):
                    yield parse_event(raw)

    def _not_ended(self, deadline: Deadline) -> WaitTimeout:
        message = f"job {self.id} ({self.filename}) did not end within {deadline.after_s:g} s"
        return WaitTimeout(message, "wait again, or cancel() it")


@dataclass(frozen=True)
class Result:
    """How a job ended, and what it wrote.

    Attributes:
        job: The job; its outputs are there.
        state: ``completed`` (exit code 0), ``failed``, ``rejected`` or ``cancelled``.
        run: The run with its figures; none where it never ran.
    """

    job: Job
    state: str
    run: Run | None

    def __repr__(self) -> str:
        how = f"exit code {self.exit_code}, {self.cause}"
        return f"<sway.Result of {self.job.id}: {self.state} ({how})>"

    @property
    def ok(self) -> bool:
        """Whether its program exited with 0."""
        return self.state == "completed"

    @property
    def stdout(self) -> str:
        """Standard output, invalid UTF-8 replaced. `Job.logs` has the bytes."""
        return (self.run and self.run.stdout) or ""

    @property
    def stderr(self) -> str:
        """Standard error, likewise."""
        return (self.run and self.run.stderr) or ""

    @property
    def exit_code(self) -> int | None:
        """128 + signal where one ended it; none where it never started."""
        return self.run.exit_code if self.run else None

    @property
    def cause(self) -> str:
        """Tell why it ended.

        ``exited``, ``timeout``, ``memory_exceeded``, ``output_limit``, ``cancelled``, ``policy``
        or ``infrastructure``.
        """
        return (self.run and self.run.cause) or self.state

    def check(self) -> Result:
        """Return itself if the program exited with 0.

        Raises:
            JobFailed: It did not.
        """
        if not self.ok:
            message, hint = self.verdict()
            raise JobFailed(message, hint, self)
        return self

    def verdict(self) -> tuple[str, str | None]:
        """Tell what happened in a line, and what would help."""
        what = f"{self.job.filename} (job {self.job.id})"
        run = self.run
        if run is None:
            return f"{what} was {self.state} before it started", None
        note = f" ({run.message})" if run.message else ""
        if self.cause == "exited":
            last = self.stderr.strip().rpartition("\n")[2]
            code = run.exit_code or 0
            how = f"was ended by signal {code - 128}" if code > 128 else f"exited with {code}"
            return f"{what} {how}{note}" + (f": {last}" if last else ""), None
        if self.cause == "timeout":
            seconds = run.limits.timeout_ms / 1000
            return f"{what}: timeout after {seconds:g} s{note}", "timeout= gives more"
        if self.cause == "memory_exceeded":
            limit = show_size(run.limits.memory_bytes)
            return f"{what}: memory_exceeded: more than {limit}{note}", "memory= gives more"
        if self.cause == "output_limit":
            return f"{what}: output_limit{note}", "output_limit= and output= give more"
        return f"{what}: {self.cause}{note}", None


class _LineDecoder:
    """Makes lines of pieces that end anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def push(self, piece: bytes, *, final: bool = False) -> Iterator[str]:
        *lines, self._rest = (self._rest + self._decoder.decode(piece, final)).split("\n")
        yield from lines
        if final and self._rest:
            yield self._rest
