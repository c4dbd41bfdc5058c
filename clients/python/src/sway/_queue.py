"""Submit jobs to owners, and decide on those that others submitted.

The functions of Syft Code Queue, by their names there.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, overload
from urllib.parse import quote, urlencode

from . import _html, _program
from ._client import Client
from ._config import Owner, known_owners
from ._display import Displayed
from ._errors import NotSendable, Refused, Unreachable
from ._foreign import line
from ._job import WAIT_S
from ._program import StrPath
from ._request import Dataset, JobOptions, job_request
from ._submission import STATES, JobList, Review, SubmittedJob

if TYPE_CHECKING:
    from typing_extensions import Unpack

JOBS_MAX = 1000
"""Jobs in one list."""

_ENTRY = "run.sh"
_QUEUE = "code-queue"

_HELP = """\
Jobs that an owner decides on (import sway as q):

  q.submit_job(target_email, code_folder, name, description, tags)
                               a folder with a run.sh; the job is pending then
  q.submit_script(target_email, script_content, name, description, requirements, tags)
  q.my_jobs()                  jobs you've submitted; also q.jobs_for_others
  q.get_job(job_uid)           one job: .uid, .status, .reason, ...
  q.get_job_output(job_uid)    the folder with what it wrote to OUTPUT_DIR
  q.get_job_logs(job_uid)      what it printed
  q.wait_for_completion(job_uid)

  q.pending_for_me()           jobs that wait for your decision
  q.all_jobs_for_me()          all jobs submitted to you; also q.jobs_for_me
  q.review_job(job_uid)        its files, what the policy finds, what changed
  q.approve(job_uid, reason)   let it run
  q.reject(job_uid, reason)    end it

  q.status()                   how many there are
  q.configure(q.QueueConfig(...))

In Jupyter, jobs are cards and lists of jobs tables, with buttons where ipywidgets is installed.
Programs and functions without an owner's decision: sway.run, sway.function.
"""


@dataclass(frozen=True)
class QueueConfig:
    """How to use queues, and what one's own grants; `Queue.configure` makes it hold.

    Attributes:
        queue_name: A label that keeps queues of one worker apart: jobs are submitted under it, and
            only such are listed. None lists those of all, and submits to ``code-queue``.
        max_concurrent_jobs: Approved jobs of one's own queue that run at a time (3, until set).
        job_timeout: Seconds; of jobs that ask for none, and the most to be asked for (600).
        cleanup_completed_after: Seconds after a job's end until its code, outputs and logs are
            removed (86400).
        owners: Where owners decide whose workers are not one's own: each as an `Owner`, the URL
            alone, or a `Client`. None stands for those that ``sway owner`` knows. Everybody else
            decides at the worker that the settings name.

    What is None stays as the worker has it.
    """

    queue_name: str | None = None
    max_concurrent_jobs: int | None = None
    job_timeout: int | None = None
    cleanup_completed_after: int | None = None
    owners: Mapping[str, Client | Owner | str] | None = None


@dataclass(frozen=True)
class QueueStatus(Displayed):
    """How many jobs there are in each state.

    Attributes:
        owner: Who asks.
        settings: What the own queue grants, as ``PUT /v1/queue`` has it.
        for_me: Of jobs that were submitted to the caller.
        by_me: Of jobs that the caller submitted, on all workers that are known.
    """

    owner: str
    settings: Mapping[str, Any]
    for_me: Mapping[str, int]
    by_me: Mapping[str, int]

    def __repr__(self) -> str:
        def told(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{count} {state}" for state, count in counts.items() if count)

        return (
            f"jobs for {self.owner}: {told(self.for_me) or 'none'}\n"
            f"jobs by {self.owner}: {told(self.by_me) or 'none'}"
        )

    def _repr_html_(self) -> str:
        return _html.status(self)


class JobsView(Displayed):
    """Jobs as they are whenever it is looked at: shown, called, or gone through."""

    def __init__(self, ask: Callable[[str | None], JobList], what: str) -> None:
        self._ask = ask
        self.__doc__ = what

    def __call__(self, status: str | None = None) -> JobList:
        """List them now, newest first, at most 1000.

        Args:
            status: Only those that stand there, such as ``completed``.
        """
        if status is not None and status not in STATES:
            raise NotSendable(f"there is no status {status!r}", f"there are: {', '.join(STATES)}")
        jobs = self._ask(status)
        jobs.again = lambda: self(status)
        return jobs

    def __iter__(self) -> Iterator[SubmittedJob]:
        return iter(self())

    def __len__(self) -> int:
        return len(self())

    @overload
    def __getitem__(self, index: int) -> SubmittedJob: ...

    @overload
    def __getitem__(self, index: slice) -> list[SubmittedJob]: ...

    def __getitem__(self, index: int | slice) -> SubmittedJob | list[SubmittedJob]:
        return self()[index]

    def __repr__(self) -> str:
        return repr(self())

    def _repr_html_(self) -> str:
        return self()._repr_html_()

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, object]:
        return self()._repr_mimebundle_()


class Queue:
    """Queues of owners, as one user. The functions of the module `sway` are those of one of these.

    Args:
        client: The worker of one's own, and of each owner without another; as the settings say
            where it is None (`Config.load`), at each call anew.
        config: See `QueueConfig`.
    """

    def __init__(self, client: Client | None = None, config: QueueConfig | None = None) -> None:
        self._client = client
        self.config = config or QueueConfig()
        self.pending_for_me = JobsView(
            lambda status: self._for_me("pending").matching(status=status),
            "Jobs that wait for one's decision.",
        )
        self.jobs_for_me = JobsView(self._for_me, "All jobs that were submitted to one.")
        self.all_jobs_for_me = self.jobs_for_me
        self.jobs_for_others = JobsView(self._by_me, "Jobs that one has submitted.")
        self.my_jobs = self.jobs_for_others

    def configure(self, config: QueueConfig) -> None:
        """Use a configuration from now on; what it says of one's own queue is set at its worker.

        Raises:
            Refused: One may not set that (403), or a value makes no sense.
        """
        wanted = {
            "max_concurrent_jobs": config.max_concurrent_jobs,
            "job_timeout_s": config.job_timeout,
            "cleanup_completed_after_s": config.cleanup_completed_after,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if given:
            http = self._own()._http
            settings = http.call("GET", "/v1/queue")["settings"]
            http.call("PUT", "/v1/queue", {**settings, **given})
        self.config = config

    def submit_job(
        self,
        target_email: str,
        code_folder: StrPath,
        name: str,
        description: str = "",
        tags: Sequence[str] = (),
        *,
        data: Sequence[str] = (),
        entry: str = _ENTRY,
        args: Sequence[object] = (),
        **options: Unpack[JobOptions],
    ) -> SubmittedJob:
        """Submit a folder to an owner, who decides whether it runs.

        Args:
            target_email: The owner's name.
            code_folder: A folder on this machine, with a ``run.sh``.
            name: What the job is called, in one line.
            description: What it is for.
            tags: Words to find it by.
            data: Names of the owner's datasets, each readable at ``/data/<its name>``, a folder
                that comes alone at ``/data``.
            entry: The file of the folder to start.
            args: Its arguments.
            options: What it may use; see `JobOptions`. What is left out is what the owner's queue
                grants: 600 s, 1 GiB, 1 CPU, 128 processes.

        Raises:
            NotSendable: The folder can't be read, has no such file or does not fit.
            Refused: The owner does not grant it, there is no such image, or too many jobs wait.
            Unreachable: There is no worker.
        """
        folder = Path(code_folder)
        if not folder.is_dir():
            raise NotSendable(f"{folder} is not a folder", "submit_script() takes source code")
        if not (folder / entry).is_file():
            hint = f"{_ENTRY} starts a submitted folder; entry= names another file"
            raise NotSendable(f"the folder {folder} has no {entry}", hint)
        program = _program.read_program(folder, entry)
        return self._submit(target_email, program, name, description, tags, data, args, options)

    def submit_script(
        self,
        target_email: str,
        script_content: str,
        name: str,
        description: str = "",
        requirements: str | Sequence[str] | None = None,
        tags: Sequence[str] = (),
        *,
        data: Sequence[str] = (),
        args: Sequence[object] = (),
        **options: Unpack[JobOptions],
    ) -> SubmittedJob:
        """Submit Python source to an owner, who decides whether it runs.

        Args:
            target_email: As in `submit_job`; so is all that is not told here.
            script_content: The source.
            name: See there.
            description: See there.
            requirements: Packages that it needs, which go along as ``requirements.txt``: a list,
                or the text of such a file. They are installed before the owner can approve.
            tags: See there.
            data: See there.
            args: See there.
            options: See there.

        Raises:
            The same as `submit_job`.
        """
        program = _program.script(script_content)
        if requirements:
            lines = [requirements] if isinstance(requirements, str) else requirements
            content = "".join(f"{text.rstrip()}\n" for text in lines).encode()
            files = [program["file"], _program.file("requirements.txt", content)]
            program = {"kind": "folder", "files": files, "entry": program["file"]["path"]}
        return self._submit(target_email, program, name, description, tags, data, args, options)

    def get_job(self, job_uid: str) -> SubmittedJob:
        """Return a job by its id, or a unique prefix of it.

        Raises:
            Refused: There is none (``job_not_found``), or several (``ambiguous_id``).
        """
        *others, last = self._workers()
        for client in others:
            try:
                return _get(client, job_uid)
            except Refused as error:
                if error.code != "job_not_found":
                    raise
        return _get(last, job_uid)

    def get_job_output(self, job_uid: str, folder: StrPath | None = None) -> Path:
        """Bring what a job wrote to ``OUTPUT_DIR`` to this machine; returns the folder.

        Args:
            job_uid: Its id.
            folder: Where it goes, new or empty. Without it, that is ``jobs/<id>/output`` below the
                working directory, and what was brought there before is not brought again.

        Raises:
            Refused: There is no such job, or no output (``no_outputs``; the message says why).
            FileExistsError: The folder given holds something.
        """
        job = self.get_job(job_uid)
        if folder is not None:
            job.save_outputs(folder)
            return Path(folder)
        kept = Path("jobs", job.uid, "output")
        if not kept.is_dir():
            kept.parent.mkdir(parents=True, exist_ok=True)
            # Under its name only when it is whole.
            with tempfile.TemporaryDirectory(dir=kept.parent) as half:
                whole = Path(half, "output")
                job.save_outputs(whole)
                whole.rename(kept)
        return kept

    def get_job_logs(self, job_uid: str) -> str:
        """Return what a job has printed so far: its stdout, then its stderr.

        Raises:
            Refused: There is no such job.
        """
        return self.get_job(job_uid).log_text()

    def wait_for_completion(self, job_uid: str, timeout: float = WAIT_S) -> SubmittedJob:
        """Wait until a job is completed, failed, rejected or cancelled, and return it then.

        Args:
            job_uid: Its id.
            timeout: Seconds; a day unless given.

        Raises:
            WaitTimeout: It takes longer, or nobody decides for so long. The job goes on.
            Refused: There is no such job.
        """
        job = self.get_job(job_uid)
        job.wait(timeout)
        return job.refreshed()

    def review_job(self, job_uid: str) -> Review:
        """Bring all that a decision needs: every file, findings of the policy, what changed.

        Raises:
            Refused: There is no such job.
        """
        return self.get_job(job_uid).review()

    def approve(self, job_uid: str, reason: str = "") -> SubmittedJob:
        """Let a pending job run; returns it. Once more changes nothing.

        `Review.approve` approves what was reviewed, or nothing.

        Args:
            job_uid: Its id.
            reason: Why; its submitter sees it.

        Raises:
            Refused: It is not one's to decide on (403), or was rejected (``decided``).
        """
        return self.get_job(job_uid).approve(reason)

    def reject(self, job_uid: str, reason: str = "") -> SubmittedJob:
        """End a pending job before it runs; returns it. Once more changes nothing.

        Args:
            job_uid: Its id.
            reason: Why; its submitter sees it.

        Raises:
            Refused: It is not one's to decide on (403), or was approved (``decided``).
        """
        return self.get_job(job_uid).reject(reason)

    def status(self) -> QueueStatus:
        """Count jobs by state, and tell what one's own queue grants."""
        queues = [client._http.call("GET", "/v1/queue") for client in self._workers()]
        own = queues[0]
        by_me = {state: sum(queue["by_me"][state] for queue in queues) for state in STATES}
        for_me = {state: own["for_me"][state] for state in STATES}
        return QueueStatus(own["owner"], own["settings"], for_me, by_me)

    def help(self) -> None:
        """Tell in a page what there is."""
        sys.stdout.write(_HELP)

    def _own(self) -> Client:
        return self._client or Client()

    def _workers(self) -> list[Client]:
        """One's own worker, then those of owners who have their own."""
        workers: dict[tuple[str | None, ...], Client] = {}
        own = self._own()
        for client in [own, *(_reached(owner, own) for owner in self._owners().values())]:
            config = client.config
            workers.setdefault((config.worker_url, config.user, config.token), client)
        return list(workers.values())

    def _owners(self) -> Mapping[str, Client | Owner | str]:
        return known_owners() if self.config.owners is None else self.config.owners

    def _submit(
        self,
        owner: str,
        program: Mapping[str, Any],
        name: str,
        description: str,
        tags: Sequence[str],
        data: Sequence[str],
        args: Sequence[object],
        options: JobOptions,
    ) -> SubmittedJob:
        for what, words in (("tags", tags), ("data", data)):
            if isinstance(words, str):
                raise NotSendable(f"{what}={words!r} is one text", "give a list")
        own = self._own()
        known = self._owners().get(owner)
        http = (own if known is None else _reached(known, own))._http
        queue = known.queue if isinstance(known, Owner) else None
        options = options.copy()
        if data:
            given = options.get("datasets", ())
            options["datasets"] = [*given, *_datasets(http, owner, data)]
        body = {
            "owner": owner,
            "queue": queue or self.config.queue_name or _QUEUE,
            "name": name,
            "description": description,
            "tags": list(tags),
            "job": job_request(program, options, args=args, detach=True),
        }
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return SubmittedJob(http, http.call("POST", "/v1/submissions", body, headers))

    def _for_me(self, status: str | None) -> JobList:
        client = self._own()
        me = _name_of(client)
        return JobList(self._jobs(client, owner=me, state=status), me=me)

    def _by_me(self, status: str | None) -> JobList:
        own, *others = self._workers()
        me = _name_of(own)
        jobs = self._jobs(own, username=me, state=status)
        for client in others:
            # One owner's worker that is away does not hide the jobs at the others.
            try:
                jobs += self._jobs(client, username=_name_of(client), state=status)
            except Unreachable as error:
                warnings.warn(f"jobs are missing from this list: {error.message}", stacklevel=3)
        if others:
            jobs.sort(key=lambda job: job.created_at, reverse=True)
        return JobList(jobs[:JOBS_MAX], me=me)

    def _jobs(self, client: Client, **query: str | None) -> list[SubmittedJob]:
        query = {**query, "queue": self.config.queue_name, "submitted": "true"}
        asked = {name: value for name, value in query.items() if value is not None}
        page = client._http.call("GET", f"/v1/jobs?{urlencode(asked)}&limit={JOBS_MAX}")
        return [SubmittedJob(client._http, told) for told in page["jobs"]]


def _get(client: Client, job_uid: str) -> SubmittedJob:
    if not job_uid:
        raise NotSendable("an empty id names no job")
    http = client._http
    return SubmittedJob(http, http.call("GET", f"/v1/jobs/{quote(job_uid, safe='')}"))


def _reached(owner: Client | Owner | str, own: Client) -> Client:
    """Make the client of an owner's worker."""
    if isinstance(owner, Client):
        return owner
    settled = Owner(owner) if isinstance(owner, str) else owner
    return Client.of(settled.config(own.config))


def _name_of(client: Client) -> str:
    """Ask a worker who one is: its token decides."""
    return str(client._http.call("GET", "/v1/queue")["owner"])


def _datasets(http: Any, owner: str, names: Sequence[str]) -> Iterator[Dataset]:
    """Look the owner's datasets up by name: only the worker knows whether one is a file."""
    told = http.call("GET", f"/v1/datasets?{urlencode({'owner': owner})}")["datasets"]
    known = {dataset["name"]: dataset for dataset in told}
    for asked in names:
        name = asked[len(owner) + 1 :] if asked.startswith(f"{owner}/") else asked
        if name not in known:
            there = line(", ".join(known) or "none", 500)
            raise NotSendable(f"{owner} offers no dataset {name!r}", f"there are: {there}")
        kind = known[name]["kind"]
        place: str | None = (known[name].get("file") or name) if kind == "file" else name
        if kind == "folder" and len(names) == 1:
            place = None
        yield Dataset(f"{owner}/{name}", place, kind)
