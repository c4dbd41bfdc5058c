"""Programs and functions in containers, on a Sway worker.

::

    import sway

    print(sway.run("app.py", image="scipy", timeout=60).stdout)

    @sway.function(image="scipy", memory="512M")
    def norm(vector: list[float]) -> float:
        from scipy import linalg

        return float(linalg.norm(vector))

    print(norm.remote([3.0, 4.0]))

The functions here ask the worker that the ``sway`` command would ask (see `Config.load`); a
`Client` asks another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, overload

from ._client import Client, Image
from ._config import Config
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
from ._request import Dataset, JobOptions, Output
from ._run import Limits, Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Call",
    "Client",
    "Config",
    "ConfigError",
    "Dataset",
    "Event",
    "Function",
    "FunctionFailed",
    "Image",
    "Job",
    "JobEnded",
    "JobFailed",
    "JobOptions",
    "Limits",
    "NotSendable",
    "Output",
    "OutputFile",
    "OutputTruncated",
    "OutputWritten",
    "ProtocolError",
    "Refused",
    "Result",
    "Run",
    "StateChanged",
    "SwayError",
    "Unreachable",
    "Untrusted",
    "UsageSampled",
    "WaitTimeout",
    "function",
    "images",
    "job",
    "jobs",
    "run",
    "runs",
    "submit",
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
