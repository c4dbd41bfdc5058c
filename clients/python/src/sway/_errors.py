"""What can go wrong; classes differ where the caller's next step does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._job import Result


class SwayError(Exception):
    """Something that Sway could not do.

    Attributes:
        message: What happened, to what.
        hint: What to do, where that is known.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ConfigError(SwayError):
    """A setting that can't be used."""


class NotSendable(SwayError):
    """A program, function or argument that can't travel to a worker. Nothing was sent."""


class Unreachable(SwayError):
    """The worker could not be asked, or stopped answering. Try later."""


class Untrusted(SwayError):
    """The worker's certificate is not the trusted one. Never go on; ask its operator."""


class ProtocolError(SwayError):
    """The answer is none of this API's: another program, or another version."""


class WaitTimeout(SwayError, TimeoutError):
    """Something goes on for longer than the caller wanted to wait. The job goes on."""


class Refused(SwayError):
    """The worker said no: change the request.

    Attributes:
        status: HTTP status.
        code: Stable name for programs, such as ``image_not_found``.
        retry_after_s: Seconds after which the worker wants to be asked again, where it says so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.args = (status, code, message, hint, retry_after_s)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class JobFailed(SwayError):
    """A job ended in another way than by exit code 0.

    Attributes:
        result: How it ended, with its output.
    """

    def __init__(self, message: str, hint: str | None, result: Result) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, result)
        self.result = result


class FunctionFailed(JobFailed):
    """A function raised an exception in its container, or returned what JSON can't carry.

    Attributes:
        traceback: The remote traceback: the function's own frames, with the line numbers of the
            file that it comes from.
    """

    def __init__(self, message: str, hint: str | None, result: Result, traceback: str) -> None:
        super().__init__(message, hint, result)
        self.args = (message, hint, result, traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.traceback}"
