"""What a job asks for, as the worker wants to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ._errors import NotSendable
from ._quantity import cpus_milli, size_bytes, time_ms


@dataclass(frozen=True)
class Dataset:
    """Data on the fileserver that a job reads below ``/data``.

    Attributes:
        dataset: ``[user/]name``.
        name: Its name below ``/data``; without one a folder that comes alone is ``/data`` itself.
        kind: ``folder`` or ``file``.
    """

    dataset: str
    name: str | None = None
    kind: str = "folder"


@dataclass(frozen=True)
class Output:
    """A directory ``/output`` for a job, whose files are kept with its run.

    Attributes:
        size: Bytes of all files together [64M].
        files: Files, folders and links [1000].
        file_size: Bytes of one file [as size].
    """

    size: int | str | None = None
    files: int | None = None
    file_size: int | str | None = None


class JobOptions(TypedDict, total=False):
    """What any job may ask for; what is left out gets the worker's default.

    ============================ ==================================================================
    image                        ``[user/]name[:tag][@digest]``
    env                          Variables of the job's environment.
    timeout                      Time that the job may take: seconds, or such as ``"5m"`` [10 s].
    memory                       Bytes including swap, or such as ``"512M"`` [256M].
    cpus                         CPUs, such as 2 or 0.5 [0.5].
    pids                         Processes and threads [64].
    tmp                          Bytes of ``/tmp`` [64M].
    output_limit                 Bytes of stdout, and as many of stderr [10M].
    fail_on_output_limit         Whether more than that ends the job instead of being cut.
    network                      ``"none"``, or ``"isolated"``: the outside without the worker's
                                 own networks [none].
    datasets                     Data that it reads below ``/data``.
    output                       An ``/output`` whose files are kept; ``True`` for the defaults.
    labels                       Notes of your own.
    ============================ ==================================================================
    """

    image: str | None
    env: Mapping[str, str]
    timeout: float | str
    memory: int | str
    cpus: float
    pids: int
    tmp: int | str
    output_limit: int | str
    fail_on_output_limit: bool
    network: str
    datasets: Sequence[Dataset]
    output: bool | Output
    labels: Mapping[str, str]


def job_request(
    program: Mapping[str, Any],
    options: JobOptions,
    *,
    args: Sequence[object] = (),
    detach: bool,
) -> dict[str, Any]:
    """Make the body of ``POST /v1/jobs``.

    Raises:
        NotSendable: An option has no such value.
        TypeError: There is no such option.
    """
    unknown = sorted(set(options) - set(JobOptions.__annotations__))
    if unknown:
        raise TypeError(f"there is no option {', '.join(unknown)} of a job")
    if isinstance(args, str):
        raise NotSendable(f"args={args!r} is one text", "give a list of arguments")
    request: dict[str, Any] = {
        "program": program,
        "args": [str(arg) for arg in args],
        "env": _texts("env", options.get("env", {})),
        "limits": _limits(options),
        "network": options.get("network", "none"),
        "detach": detach,
        "fail_on_output_limit": options.get("fail_on_output_limit", False),
        "labels": _texts("labels", options.get("labels", {})),
    }
    if options.get("image") is not None:
        request["image"] = options["image"]
    if options.get("datasets"):
        request["datasets"] = [_present(vars(dataset)) for dataset in options["datasets"]]
    output = options.get("output", False)
    if output:
        request["output"] = _output(Output() if output is True else output)
    return request


def _limits(options: JobOptions) -> dict[str, int]:
    limits: dict[str, int] = {}
    if "timeout" in options:
        limits["timeout_ms"] = time_ms(options["timeout"])
    if "memory" in options:
        limits["memory_bytes"] = size_bytes(options["memory"])
    if "cpus" in options:
        limits["cpus_milli"] = cpus_milli(options["cpus"])
    if "pids" in options:
        limits["pids"] = options["pids"]
    if "output_limit" in options:
        limits["output_bytes"] = size_bytes(options["output_limit"])
    if "tmp" in options:
        limits["tmp_bytes"] = size_bytes(options["tmp"])
    return limits


def _output(output: Output) -> dict[str, int]:
    return _present(
        {
            "bytes": None if output.size is None else size_bytes(output.size),
            "files": output.files,
            "file_bytes": None if output.file_size is None else size_bytes(output.file_size),
        }
    )


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _texts(option: str, pairs: Mapping[str, str]) -> dict[str, str]:
    for name, value in pairs.items():
        if not isinstance(name, str) or not isinstance(value, str):
            # Not the value itself: variables hold secrets.
            raise NotSendable(f"{option}[{name!r}] is not text", "give names and values as str")
    return dict(pairs)
