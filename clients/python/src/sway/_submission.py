"""Jobs that an owner decides on, and all that a decision needs."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable
from urllib.parse import quote

from . import _html
from ._display import Displayed
from ._errors import ProtocolError, SwayError
from ._foreign import line, moment, shown
from ._http import Http
from ._job import Job
from ._quantity import show_size

STATES = ("pending", "approved", "running", "completed", "failed", "rejected", "cancelled")
"""Where a job can stand."""

_TEXT_LEN_MAX = 256 << 10
"""Letters of one file that a review displays; `Review.files` has them all."""


@dataclass(frozen=True)
class Decision:
    """What an owner decided.

    Attributes:
        approved: Yes or no.
        by: Who.
        at: When, RFC 3339.
        reason: Why.
    """

    approved: bool
    by: str
    at: str
    reason: str


class SubmittedJob(Displayed, Job):
    """A job that its owner decides on. In Jupyter it is a card with buttons.

    What is told here is what the worker said when this object was made, `status` aside.

    Attributes:
        uid: Short and typeable; its first letters do, where they are one job's alone.
        name: What it is called.
        description: What it is for.
        tags: Words to find it by.
        submitter: Who submitted it.
        owner: Who decides on it.
        queue_name: The owner's queue that it is in.
        digest: SHA-256 over all that was submitted.
        packages: What became of its ``requirements.txt``, in lines; empty where it has none.
        decision: What the owner decided; none while it is pending.
        state: Where it stood; `status` asks anew.
        message: Why it was not started, or what to know of its end; mostly none.
    """

    def __init__(self, http: Http, told: dict[str, Any]) -> None:
        super().__init__(http, told)
        submission = told.get("submission")
        if submission is None:
            message = f"job {self.id} was submitted to nobody, so nobody decides on it"
            raise SwayError(message, "sway.job() has those")
        decision = submission.get("decision")
        self.uid = self.id
        self.name: str = submission["name"]
        self.description: str = submission["description"]
        self.tags: list[str] = list(submission["tags"])
        self.submitter: str = told["username"]
        self.owner: str = submission["owner"]
        self.queue_name: str = submission["queue"]
        self.digest: str = submission["digest"]
        self.packages = _packages(submission.get("packages"))
        self.state: str = told["state"]
        self.message: str | None = (told.get("run") or {}).get("message")
        self.decision = None if decision is None else _decision(decision)
        self._told = told

    def __repr__(self) -> str:
        return (
            f"<sway job {line(self.uid, 40)}: {line(self.name, 60)}, {self.state}, "
            f"by {line(self.submitter, 128)} to {line(self.owner, 128)}>"
        )

    @property
    def reason(self) -> str:
        """Why it was approved or rejected; empty without a decision."""
        return self.decision.reason if self.decision else ""

    def refreshed(self) -> SubmittedJob:
        """Return it as it is now."""
        return SubmittedJob(self._http, self._http.call("GET", self._path()))

    def approve(self, reason: str = "") -> SubmittedJob:
        """Let it run, if it still is what this object shows.

        Raises:
            Refused: It is somebody else's to decide (403), another one now (``not_reviewed``),
                decided the other way (``decided``), or at its end (``job_ended``).
        """
        return self._decide("approve", reason)

    def reject(self, reason: str = "") -> SubmittedJob:
        """End it before it runs; its submitter is told why.

        Raises:
            The same as `approve`.
        """
        return self._decide("reject", reason)

    def review(self) -> Review:
        """Bring every file of it, what the policy finds there, and what changed since last time."""
        return Review(self._http, self._http.call("GET", self._path("/review")))

    def asking_user(self) -> str:
        """Name the user whom the worker takes this process for."""
        return str(self._http.call("GET", "/v1/queue")["owner"])

    def log_text(self) -> str:
        """Return what it has written so far to stdout, then what it has to stderr.

        Invalid UTF-8 is replaced. Empty as long as it has not begun.
        """
        run = self._http.call("GET", self._path()).get("run")
        if run is None:
            return ""
        told = self._http.call("GET", f"/v1/runs/{quote(str(run['id']), safe='')}")
        return (told.get("stdout") or "") + (told.get("stderr") or "")

    def _decide(self, how: str, reason: str) -> SubmittedJob:
        body = {"reason": reason, "digest": self.digest}
        return SubmittedJob(self._http, self._http.call("POST", self._path(f"/{how}"), body)["job"])

    def _repr_html_(self) -> str:
        return _html.card(self)

    def _widget(self) -> Any:
        from ._widgets import JobCard

        return JobCard(self).box


class JobList(Displayed, list[SubmittedJob]):
    """Jobs, newest first. In Jupyter it is a table with filters and buttons.

    Attributes:
        me: Who asked for them, where that is known.
        again: Asks for them once more, where that is known.
    """

    def __init__(self, jobs: Iterable[SubmittedJob] = (), *, me: str | None = None) -> None:
        super().__init__(jobs)
        self.me = me
        self.again: Callable[[], JobList] | None = None

    def matching(self, text: str = "", status: str | None = None) -> JobList:
        """Choose those in a state whose name, id, people or tags hold a text, in any case."""
        text = text.strip().lower()
        jobs = [
            job
            for job in self
            if (not status or job.state == status)
            and any(
                text in told.lower()
                for told in (job.name, job.uid, job.submitter, job.owner, *job.tags)
            )
        ]
        return JobList(jobs, me=self.me)

    def __repr__(self) -> str:
        if not self:
            return "no jobs"
        rows = [("ID", "STATUS", "NAME", "BY", "TO", "SUBMITTED")]
        rows += [
            (
                line(job.uid, 40),
                line(job.state, 20),
                line(job.name, 32),
                line(job.submitter, 64),
                line(job.owner, 64),
                moment(job.created_at),
            )
            for job in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
        return "\n".join(text.rstrip() for text in lines)

    def _repr_html_(self) -> str:
        return _html.table(self)

    def _widget(self) -> Any:
        from ._widgets import JobTable

        return JobTable(self).box


@dataclass(frozen=True)
class Finding:
    """What a policy objects to; line and column are counted from 1."""

    file: str
    line: int
    column: int
    reason: str


@dataclass(frozen=True)
class SubmittedFile:
    """A file of a job.

    Attributes:
        path: From the job's folder.
        content: Its bytes.
        executable: Whether it is marked so.
    """

    path: str
    content: bytes
    executable: bool

    @property
    def text(self) -> str:
        """Its text as it is safe to display: what would act is shown, invalid UTF-8 replaced."""
        text = self.content.decode("utf-8", "replace")
        cut = text[:_TEXT_LEN_MAX]
        more = f"\n… cut here: {len(text) - len(cut)} letters more" if len(text) > len(cut) else ""
        return shown(cut) + more


class Review(Displayed):
    """All that a decision needs. Printed, it is one page.

    Attributes:
        job: The job.
        files: Every file that it brings; empty where it was cleaned up.
        asks: What it asks for: pairs of a name and a text.
        findings: What the policy objects to, the first 1000.
        more_findings: Whether it objects to more.
        previous: The submitter's last approved job to the same owner; mostly none.
        changes: Lines of a diff from that one's files and wishes to this one's.
    """

    def __init__(self, http: Http, told: dict[str, Any]) -> None:
        self.job = SubmittedJob(http, told["job"])
        self.files = _files(told.get("spec"))
        self.asks = _asks(told["job"], told.get("spec"))
        self.findings = [
            Finding(found["file"], found["line"], found["column"], found["reason"])
            for found in told["findings"]
        ]
        self.more_findings = bool(told.get("more_findings"))
        before = told.get("previous")
        self.previous = None if before is None else SubmittedJob(http, before["job"])
        self.changes = [] if before is None else list(_changes(before, told))

    def approve(self, reason: str = "") -> SubmittedJob:
        """Approve what was reviewed here, and nothing else; see `SubmittedJob.approve`."""
        return self.job.approve(reason)

    def reject(self, reason: str = "") -> SubmittedJob:
        """Reject it; see `SubmittedJob.reject`."""
        return self.job.reject(reason)

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        job = self.job
        yield f"{job.uid}  {job.state}"
        for name, text in self.facts():
            yield f"  {name:<12} {line(text, 2000)}"
        if job.description:
            yield ""
            yield from ("  " + text for text in shown(job.description).splitlines())
        yield ""
        more = " (and more)" if self.more_findings else ""
        yield f"Findings of the policy{more}" + ("" if self.findings else ": none")
        for found in self.findings:
            place = f"{line(found.file, 200)}:{found.line}:{found.column}"
            yield f"  {place}: {line(found.reason, 500)}"
        if self.previous is not None:
            yield ""
            yield f"Changes since {self.previous.uid}" + ("" if self.changes else ": none")
            yield from ("  " + text for text in self.changes)
        for file in self.files:
            yield ""
            yield f"── {line(file.path, 200)} ({file_note(file)})"
            for number, text in enumerate(file.text.split("\n"), 1):
                yield f"{number:>5} │ {text}"

    def facts(self) -> Iterator[tuple[str, str]]:
        """Tell what the job is and asks for: pairs of a name and a text."""
        job = self.job
        yield "name", job.name
        yield "by", job.submitter
        yield "to", job.owner
        yield "tags", ", ".join(job.tags) or "-"
        yield "digest", job.digest
        yield from self.asks

    def _repr_html_(self) -> str:
        return _html.review(self)

    def _widget(self) -> Any:
        from ._widgets import JobCard

        return JobCard(self.job, self).box


def file_note(file: SubmittedFile) -> str:
    """Tell a file's length, and whether it is executable."""
    return show_size(len(file.content)) + (", executable" if file.executable else "")


def _decision(told: Mapping[str, Any]) -> Decision:
    return Decision(told["approved"], told["by"], told["at"], told["reason"])


def _files(spec: Mapping[str, Any] | None) -> list[SubmittedFile]:
    if spec is None:
        return []
    program = spec["program"]
    told = [*program.get("files", ()), *([program["file"]] if "file" in program else ())]
    try:
        return [
            SubmittedFile(
                file["path"],
                base64.b64decode(file["content"], validate=True),
                bool(file.get("executable", False)),
            )
            for file in told
        ]
    except ValueError as error:
        raise ProtocolError(f"a job's file is not understood: {error}") from error


def _packages(told: Mapping[str, Any] | None) -> list[str]:
    if told is None:
        return []
    state = told["state"]
    if state == "preparing":
        return ["are being installed: the job can be approved when they are"]
    if state == "ready":
        if not told["installed"]:
            return ["the image has all that requirements.txt asks for"]
        installed = [f"{it['name']}=={it['version']}" for it in told["installed"]]
        return [*installed, f"installed into {told['image']}"]
    if state == "left_to_image":
        return ["nothing is installed into a submitter's own image: what it lacks, the job lacks"]
    return [f"can't be installed: {told.get('reason', state)}"]


def _asks(job: Mapping[str, Any], spec: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    limits = job["limits"]
    asks = [
        ("image", f"{job['image']}@{job['manifest']}"),
        (
            "limits",
            f"{limits['timeout_ms'] / 1000:g} s, {show_size(limits['memory_bytes'])} of memory, "
            f"{limits['cpus_milli'] / 1000:g} CPUs, {limits['pids']} processes",
        ),
        ("network", job["network"]),
    ]
    submission = job.get("submission") or {}
    asks += [("packages", text) for text in _packages(submission.get("packages"))]
    for data in job.get("datasets", ()):
        place = f"/data/{data['name']}" if data.get("name") else "/data"
        asks.append(("dataset", f"{data['dataset']}@{data['manifest']} at {place}"))
    if spec is None:
        return [*asks, ("code", "was cleaned up")]
    program = spec["program"]
    if program.get("entry"):
        asks.append(("starts", f"/code/{program['entry']}"))
    if program["kind"] == "command":
        asks.append(("command", " ".join(map(repr, program["argv"])) or "the image's own"))
    if spec.get("args"):
        asks.append(("arguments", " ".join(map(repr, spec["args"]))))
    asks += [("environment", f"{name}={text}") for name, text in sorted(spec["env"].items())]
    return asks


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    def wishes(told: Mapping[str, Any]) -> list[str]:
        return [f"{name} {line(text, 2000)}" for name, text in _asks(told["job"], told.get("spec"))]

    old = {file.path: file.text for file in _files(before.get("spec"))}
    new = {file.path: file.text for file in _files(now.get("spec"))}
    yield from _diff("what it asks for", wishes(before), wishes(now))
    for path in sorted({*old, *new}):
        left, right = old.get(path, "").split("\n"), new.get(path, "").split("\n")
        yield from _diff(line(path, 200), left, right)


def _diff(title: str, old: list[str], new: list[str]) -> Iterator[str]:
    found = list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]
    if found:
        yield title
        yield from found
