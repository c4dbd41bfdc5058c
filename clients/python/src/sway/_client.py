"""One worker: submit, run, look up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, overload
from urllib.parse import quote, urlencode

from . import _program, _project
from ._config import Config
from ._errors import NotSendable
from ._function import Function, P, R, wrap
from ._http import Http
from ._job import Job, Result
from ._program import StrPath
from ._request import JobOptions, job_request
from ._run import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Image:
    """An image that the caller can run.

    Attributes:
        name: With user and tag.
        manifest: Digest of what the name leads to.
        updated_at: When it was exported last, RFC 3339.
    """

    name: str
    manifest: str
    updated_at: str


class Client:
    """A worker, as a user. Threads may share it.

    What is not given is taken from where the ``sway`` command takes it: see `Config.load`.
    """

    def __init__(
        self,
        worker_url: str | None = None,
        *,
        user: str | None = None,
        token: str | None = None,
        worker_pin: str | None = None,
    ) -> None:
        self.config = Config.load(worker_url, user=user, token=token, worker_pin=worker_pin)
        self._http = Http(self.config)

    @classmethod
    def of(cls, config: Config) -> Client:
        """Make one of settings that are settled."""
        client = cls.__new__(cls)
        client.config = config
        client._http = Http(config)
        return client

    def __repr__(self) -> str:
        return f"<sway.Client of {self.config.worker_url} as {self.config.user}>"

    def run(
        self,
        program: StrPath | None = None,
        *,
        code: str | None = None,
        command: Sequence[str] | None = None,
        entry: str | None = None,
        args: Sequence[object] = (),
        check: bool = False,
        **options: Unpack[JobOptions],
    ) -> Result:
        """Run a program in a container, and wait for its end.

        If this is interrupted, the program is cancelled.

        Args:
            program: A script or folder on this machine;
            code: or Python source;
            command: or a command of the image, as words.
            entry: The file of the folder to start; else main.py, else run.sh.
            args: Arguments of the program.
            check: Raise `JobFailed` unless it exits with 0.
            options: What it may use: see `JobOptions`. Without ``image`` a script or folder runs
                in the image that ``sway export`` made of its project, anything else, and where
                there is none, in the worker's default image.

        Raises:
            NotSendable: The program can't be read or does not fit; an option has no such value.
            Refused: The worker does not run it.
            JobFailed: It did not exit with 0, and ``check`` is set.
            Unreachable: There is no worker.
        """
        job = self.submit(
            program,
            code=code,
            command=command,
            entry=entry,
            args=args,
            detach=False,
            **options,
        )
        try:
            result = job.wait()
        except BaseException:
            job.cancel_quietly()
            raise
        return result.check() if check else result

    def submit(
        self,
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
        """Have a program run in a container, without waiting.

        Args:
            program: As in `run`; so are code, command, entry, args, options.
            code: See there.
            command: See there.
            entry: See there.
            args: See there.
            detach: Whether it goes on when nobody follows it any more. Without it, it is cancelled
                5 s after the last follower has gone.
            idempotency_key: However often the same request is sent under a key, it makes one job.
            options: See there.

        Raises:
            The same as `run`, but those of its end.
        """
        if sum(choice is not None for choice in (program, code, command)) != 1:
            raise NotSendable("one of program, code and command has to be given")
        if program is None and entry is not None:
            raise NotSendable("entry= is for folders")
        if program is not None:
            made = _program.read_program(program, entry)
            if options.get("image") is None:
                options["image"] = _project.image_of(Path(program))
        elif code is not None:
            made = _program.script(code)
        else:
            made = _program.command(command or [])
        return self.submit_program(
            made, options, args=args, detach=detach, idempotency_key=idempotency_key
        )

    def submit_program(
        self,
        program: Mapping[str, Any],
        options: JobOptions,
        *,
        args: Sequence[object] = (),
        detach: bool = True,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a program as ``docs/http-api.md`` describes one; `submit` makes it from files.

        Raises:
            The same as `submit`.
        """
        request = job_request(program, options, args=args, detach=detach)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(self._http, self._http.call("POST", "/v1/jobs", request, headers))

    @overload
    def function(self, function: Callable[P, R], /) -> Function[P, R]: ...

    @overload
    def function(
        self, /, **options: Unpack[JobOptions]
    ) -> Callable[[Callable[P, R]], Function[P, R]]: ...

    def function(
        self, function: Callable[P, R] | None = None, /, **options: Unpack[JobOptions]
    ) -> Any:
        """Make a function that runs on this worker; see `sway.function`."""
        return wrap(function, options, lambda: self)

    def job(self, job_id: str) -> Job:
        """Return a job by its id, or a unique prefix of it.

        Raises:
            Refused: There is none (``job_not_found``), or several (``ambiguous_id``).
        """
        return Job(self._http, self._http.call("GET", f"/v1/jobs/{quote(job_id, safe='')}"))

    def jobs(
        self,
        state: str | None = None,
        *,
        image: str | None = None,
        label: str | None = None,
        query: str | None = None,
    ) -> Iterator[Job]:
        """Tell the user's jobs for which all holds that is given, newest first, page by page.

        Args:
            state: Where they stand, such as ``running``.
            image: Their image's name, as `Job.image` has it.
            label: ``name=value``, or ``name`` for any value.
            query: Looked for in file name, user, image and id.
        """
        asked = {"state": state, "image": image, "label": label, "q": query}
        for told in self._pages("/v1/jobs", "jobs", asked):
            yield Job(self._http, told)

    def runs(self, query: str | None = None) -> Iterator[Run]:
        """Tell the user's runs without their outputs, newest first, page by page.

        Args:
            query: Looked for in file name, user, image and job.
        """
        for told in self._pages("/v1/runs", "runs", {"q": query}):
            yield Run.from_json(told)

    def images(self) -> list[Image]:
        """List the images that the user can run: own ones and the library's."""
        images = self._http.call("GET", "/v1/images")["images"]
        return [Image(told["name"], told["manifest"], told["updated_at"]) for told in images]

    def _pages(
        self, path: str, what: str, query: Mapping[str, str | None]
    ) -> Iterator[dict[str, Any]]:
        asked = {name: value for name, value in query.items() if value is not None}
        while True:
            page = self._http.call("GET", f"{path}?{urlencode(asked)}")
            yield from page[what]
            if page.get("next_before") is None:
                return
            asked["before"] = str(page["next_before"])
