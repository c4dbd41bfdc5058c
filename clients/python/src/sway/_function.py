"""Functions that run on a worker: `function` makes one of a plain Python function.

Arguments and results travel as JSON, and the function as its source. Nothing is pickled: what comes
back from a container is data, never code.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Generic, NamedTuple, TypeVar, cast

from . import _remote
from ._errors import FunctionFailed, NotSendable, SwayError
from ._job import WAIT_S, Job, Result
from ._program import file
from ._request import JobOptions
from ._source import check_function, source_of

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ._client import Client

    P = ParamSpec("P")
else:
    P = TypeVar("P")
R = TypeVar("R")

INPUT_BYTES_MAX = 1 << 20
"""Bytes of JSON that a function may be called with, and may return."""

CONCURRENCY = 8
"""Calls of a `map` that are under way at once unless the caller says so."""

_MODULE = "sway_function"
"""As what `_remote` is sent along."""


class Function(Generic[P, R]):
    """A function that runs here, or in a container of its own on a worker.

    Called as it is, it runs here, as `local` does.
    """

    __name__: str
    __qualname__: str

    def __init__(
        self,
        function: Callable[P, R],
        options: JobOptions,
        client: Callable[[], Client],
    ) -> None:
        check_function(function)
        self.__sway_function__ = function
        self._options = options
        self._client = client
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<sway.Function {self.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__sway_function__(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here, in this process."""
        return self.__sway_function__(*args, **kwargs)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it in a container, and wait for what it returns.

        A call that is interrupted here is cancelled there.

        Raises:
            NotSendable: Function or arguments can't travel.
            FunctionFailed: It raised an exception, or returned what JSON can't carry.
            JobFailed: It did not come to an end: timeout, memory, cancelled.
            Refused: The worker does not run it.
            Unreachable: There is no worker.
        """
        call = self._submit(self._source(), args, kwargs, detach=False)
        try:
            result = call.job.wait()
        except BaseException:
            call.job.cancel_quietly()
            raise
        return call.value(result)

    def spawn(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Call it in a container, without waiting. It goes on if this process ends.

        Raises:
            The same as `remote`, but those of its end.
        """
        return self._submit(self._source(), args, kwargs, detach=True)

    def map(
        self,
        items: Iterable[Any],
        *,
        concurrency: int = CONCURRENCY,
        timeout: float = WAIT_S,
    ) -> Iterator[R]:
        """Call it with each item, and give what it returns in the items' order.

        Items are taken as places become free, so there may be any number of them. The first call
        that fails ends it, as `remote` would, and cancels the others.

        Args:
            items: Each is the only argument of a call.
            concurrency: Calls that are under way at once, at most.
            timeout: Seconds to wait for each result.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}, and has to be 1 at least")
        return self._map(self._source(), iter(items), concurrency, timeout)

    def _map(
        self, sent: _Sent, items: Iterator[Any], concurrency: int, timeout: float
    ) -> Iterator[R]:
        calls: deque[Call[R]] = deque()
        try:
            for item in items:
                if len(calls) == concurrency:
                    yield self._first(calls, timeout)
                calls.append(self._submit(sent, (item,), {}, detach=True))
            while calls:
                yield self._first(calls, timeout)
        finally:
            for call in calls:
                call.job.cancel_quietly()

    @staticmethod
    def _first(calls: deque[Call[R]], timeout: float) -> R:
        """Wait for the oldest call, which then is none of those that run any more."""
        result = calls[0].job.wait(timeout)
        return calls.popleft().value(result)

    def _source(self) -> _Sent:
        """Collect what goes with a call, but for its arguments.

        Not kept: what it uses of other cells of a notebook may mean something else by the next.
        """
        source = source_of(self.__sway_function__)
        remote = pkgutil.get_data(__package__, "_remote.py")
        if remote is None:
            raise NotSendable("this installation of sway lacks its file _remote.py")
        files = [file(f"{source.module}.py", source.text.encode()), file(f"{_MODULE}.py", remote)]
        return _Sent(source.module, source.function, files)

    def _submit(
        self, sent: _Sent, args: tuple[Any, ...], kwargs: dict[str, Any], *, detach: bool
    ) -> Call[R]:
        program = {
            "kind": "handler",
            "runtime": "python",
            "handler": f"{_MODULE}.{sent.function if sent.function.isascii() else 'call'}",
            "files": sent.files,
            "input": _input(self.__qualname__, sent, args, kwargs),
        }
        job = self._client().submit_program(program, self._options, detach=detach)
        return Call(job, self.__qualname__)


class _Sent(NamedTuple):
    """A function as it is sent: where its container finds it, and the files that hold it."""

    module: str
    function: str
    files: list[dict[str, Any]]


class Call(Generic[R]):
    """A call that is under way in a container.

    Attributes:
        job: Its job; what the function prints is in its logs.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self._name = name

    def __repr__(self) -> str:
        return f"<sway.Call of {self._name}, job {self.job.id}>"

    def get(self, timeout: float = WAIT_S) -> R:
        """Wait for what it returns.

        Args:
            timeout: Seconds.

        Raises:
            WaitTimeout: It goes on for longer, and is not cancelled by that.
            FunctionFailed: It raised an exception, or returned what JSON can't carry.
            JobFailed: It did not come to an end: timeout, memory, cancelled.
        """
        return self.value(self.job.wait(timeout))

    def value(self, result: Result) -> R:
        """Tell what it returned from how its job ended.

        Raises:
            The same as `get`, but the first.
        """
        answer = result.run.answer if result.run else None
        if answer is not None and answer.error is not None:
            traceback = without_own_frames(answer.error)
            last = traceback.rpartition("\n")[2]
            message = f"{self._name} failed in its container (job {self.job.id}): {last}"
            raise FunctionFailed(message, None, result, traceback)
        if answer is None or answer.result is None:
            result.check()
            raise SwayError(f"{self._name} ended without an answer (job {self.job.id})")
        return cast("R", json.loads(answer.result))

    def cancel(self) -> None:
        """End it.

        Raises:
            Refused: It has ended already (``job_ended``).
        """
        self.job.cancel()


def without_own_frames(traceback: str) -> str:
    """Leave out the frames of the file that called the function."""
    frame = rf'  File "/code/{_MODULE}\.py", line \d+, in \w+\n'
    return re.sub(frame + r"(?:    .*\n)*", "", traceback)


def _input(name: str, sent: _Sent, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    context = {"module": sent.module, "function": sent.function}
    event = {"args": list(args), "kwargs": kwargs}
    try:
        _remote.check_json(event["args"], "args")
        _remote.check_json(kwargs, "kwargs")
    except (TypeError, ValueError) as error:
        hint = "pass None, bool, int, float, str, and lists and dictionaries of them"
        raise NotSendable(f"an argument of {name} can't be sent: {error}", hint) from None
    text = json.dumps({"version": "v1", "context": context, "event": event}, allow_nan=False)
    if len(text) > INPUT_BYTES_MAX:
        message = (
            f"the arguments of {name} are {len(text)} bytes of JSON, more than {INPUT_BYTES_MAX}"
        )
        raise NotSendable(message, "large data goes to the fileserver as a dataset")
    return text


def wrap(
    function: Callable[P, R] | None,
    options: JobOptions,
    client: Callable[[], Client],
) -> Any:
    """Make a function remote, or a decorator that does."""
    if function is not None:
        return Function(function, options, client)
    return lambda function: Function(function, options, client)
