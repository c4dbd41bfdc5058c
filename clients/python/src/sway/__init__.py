"""Programs and functions in containers, on a Sway worker, and jobs that an owner decides on.

::

    import sway

    print(sway.run("app.py", image="scipy", timeout=60).stdout)

    @sway.function(image="scipy", memory="512M")
    def norm(vector: list[float]) -> float:
        from scipy import linalg

        return float(linalg.norm(vector))

    print(norm.remote([3.0, 4.0]))

::

    import sway as q

    job = q.submit_job("alice@example.org", "./my_analysis", name="Sums", tags=["statistics"])
    q.pending_for_me()  # as alice
    q.approve(job.uid, "Looks safe")
    q.wait_for_completion(job.uid)

The functions here ask the worker that the ``sway`` command would ask (see `Config.load`); a
`Client` asks another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, overload

from ._client import Client, Image
from ._config import Config, Owner
from ._errors import (
    ConfigError,
    FunctionFailed,
    JobFailed,
    NotSendable,
    ProtocolError,
    Refused,
    SwayError,
    Unreachable,
    Untrusted,
    WaitTimeout,
)
from ._events import Event, JobEnded, OutputTruncated, OutputWritten, StateChanged, UsageSampled
from ._function import Call, Function, P, R, wrap
from ._job import Job, OutputFile, Result
from ._program import StrPath
from ._queue import JobsView, Queue, QueueConfig, QueueStatus
from ._request import Dataset, JobOptions, Output
from ._run import Limits, Run
from ._submission import Decision, Finding, JobList, Review, SubmittedFile, SubmittedJob

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Call",
    "Client",
    "Config",
    "ConfigError",
    "Dataset",
    "Decision",
    "Event",
    "Finding",
    "Function",
    "FunctionFailed",
    "Image",
    "Job",
    "JobEnded",
    "JobFailed",
    "JobList",
    "JobOptions",
    "JobsView",
    "Limits",
    "NotSendable",
    "Output",
    "OutputFile",
    "OutputTruncated",
    "OutputWritten",
    "Owner",
    "ProtocolError",
    "Queue",
    "QueueConfig",
    "QueueStatus",
    "Refused",
    "Result",
    "Review",
    "Run",
    "StateChanged",
    "SubmittedFile",
    "SubmittedJob",
    "SwayError",
    "Unreachable",
    "Untrusted",
    "UsageSampled",
    "WaitTimeout",
    "all_jobs_for_me",
    "approve",
    "configure",
    "function",
    "get_job",
    "get_job_logs",
    "get_job_output",
    "help",
    "images",
    "job",
    "jobs",
    "jobs_for_me",
    "jobs_for_others",
    "my_jobs",
    "pending_for_me",
    "reject",
    "review_job",
    "run",
    "runs",
    "status",
    "submit",
    "submit_job",
    "submit_script",
    "wait_for_completion",
]


def run(
    program: StrPath | None = None,
    *,
    code: str | None = None,
    command: Sequence[str] | None = None,
    entry: str | None = None,
    args: Sequence[object] = (),
    check: bool = False,
    **options: Unpack[JobOptions],
) -> Result:
    """Run a program in a container, and wait for its end; see `Client.run`."""
    return Client().run(
        program, code=code, command=command, entry=entry, args=args, check=check, **options
    )


def submit(
    program: StrPath | None = None,
    *,
    code: str | None = None,
    command: Sequence[str] | None = None,
    entry: str | None = None,
    args: Sequence[object] = (),
    detach: bool = True,
    idempotency_key: str | None = None,
    **options: Unpack[JobOptions],
) -> Job:
    """Have a program run in a container, without waiting; see `Client.submit`."""
    return Client().submit(
        program,
        code=code,
        command=command,
        entry=entry,
        args=args,
        detach=detach,
        idempotency_key=idempotency_key,
        **options,
    )


@overload
def function(function: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    **options: Unpack[JobOptions],
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


def function(function: Callable[P, R] | None = None, /, **options: Unpack[JobOptions]) -> Any:
    """Make a function that can run in a container, each call in one of its own.

    Its source travels, with the imports, helpers and constants of its file that it uses; what it
    is called with and what it returns travel as JSON.

    Args:
        function: The function, where this is the decorator itself.
        options: What each call may use: see `JobOptions`. Without ``image`` it is the worker's
            default image.

    Raises:
        NotSendable: It is a lambda, a closure, a method, async or a generator.
    """
    return wrap(function, options, Client)


def job(job_id: str) -> Job:
    """Return a job by its id, or a unique prefix of it; see `Client.job`."""
    return Client().job(job_id)


def jobs(
    state: str | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
    query: str | None = None,
) -> Iterator[Job]:
    """Tell one's jobs, newest first; see `Client.jobs`."""
    return Client().jobs(state, image=image, label=label, query=query)


def runs(query: str | None = None) -> Iterator[Run]:
    """Tell one's runs without their outputs, newest first; see `Client.runs`."""
    return Client().runs(query)


def images() -> list[Image]:
    """List the images that one can run; see `Client.images`."""
    return Client().images()


_default_queue = Queue()
submit_job = _default_queue.submit_job
submit_script = _default_queue.submit_script
my_jobs = _default_queue.my_jobs
jobs_for_others = _default_queue.jobs_for_others
get_job = _default_queue.get_job
get_job_output = _default_queue.get_job_output
get_job_logs = _default_queue.get_job_logs
wait_for_completion = _default_queue.wait_for_completion
pending_for_me = _default_queue.pending_for_me
jobs_for_me = _default_queue.jobs_for_me
all_jobs_for_me = _default_queue.all_jobs_for_me
review_job = _default_queue.review_job
approve = _default_queue.approve
reject = _default_queue.reject
status = _default_queue.status
help = _default_queue.help  # noqa: A001 - as Syft Code Queue names it
configure = _default_queue.configure
