"""HTTP to one worker: credentials, deadlines, repetition, and errors of one kind.

Each request has a connection of its own, so that threads share nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import logging
import random
import socket
import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, TypeVar
from urllib.parse import urlsplit

from ._config import Config
from ._deadline import Deadline
from ._errors import ProtocolError, Refused, SwayError, Unreachable, Untrusted

T = TypeVar("T")

log = logging.getLogger("sway")

CONNECT_S = 5.0
"""For a connection to stand."""

CALL_S = 30.0
"""For a small call as a whole, and for the worker to have room for it again."""

IDLE_S = 30.0
"""For the next bytes of a stream. The worker sends a comment every 10 s, so silence is a break."""

PAUSES_S = (0.1, 0.3, 1.0)
"""Before a call is repeated."""

RETRY_AFTER_S_MAX = 10.0
"""The longest pause that a worker may ask for."""

ANSWER_BYTES_MAX = 256 << 20
"""The longest answer to a small call."""

_PIECE_BYTES = 64 << 10

_PIN_HINT = (
    "pin the fingerprint that lies in tls/fingerprint of the worker's data directory, "
    "as worker_pin in config.toml"
)


class Http:
    """Requests to the worker of a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.base = config.worker_url.rstrip("/")
        self._tls = _tls_context(config)

    def call(
        self,
        method: str,
        path: str,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """JSON in, JSON out, within 30 s; repeated where the fault may pass.

        Raises:
            Unreachable: No answer, also when asked again.
            Untrusted: Another certificate than the trusted one.
            Refused: The worker said no.
            ProtocolError: The answer is not this API's.
        """
        return self.repeat(lambda deadline: self._call_once(method, path, body, headers, deadline))

    def repeat(self, attempt: Callable[[Deadline], T]) -> T:
        """Make ``attempt(deadline)`` until it succeeds, fails for good, or often enough."""
        deadline = Deadline(CALL_S)
        pauses = list(PAUSES_S)
        while True:
            try:
                return attempt(deadline)
            except (Unreachable, Refused) as error:
                pause_s = _pause_s(error, pauses)
                if pause_s is None or pause_s >= deadline.left_s:
                    raise
                log.debug("asking %s again in %.1f s: %s", self.base, pause_s, error.message)
            time.sleep(pause_s)

    def _call_once(
        self,
        method: str,
        path: str,
        body: object | None,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
    ) -> Any:
        idle_s = min(IDLE_S, deadline.left_s)
        with self.open(method, path, body, headers, idle_s=idle_s) as response:
            content = response.read(ANSWER_BYTES_MAX, deadline)
        try:
            return json.loads(content)
        except ValueError as error:
            raise ProtocolError(f"{self.base}{path} did not answer with JSON") from error

    def open(
        self,
        method: str,
        path: str,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        idle_s: float,
    ) -> Response:
        """Send a request once, and return its answer when its head is there.

        Raises:
            The same as `call`.
        """
        content = None if body is None else json.dumps(body).encode()
        connection = self._connection()
        waited_s = CONNECT_S
        try:
            connection.connect()
            waited_s = idle_s
            wire = connection.sock
            wire.settimeout(idle_s)
            if isinstance(wire, ssl.SSLSocket):
                self._check_pin(wire)
            try:
                connection.request(
                    method,
                    self._prefix + path,
                    body=None if content is None else io.BytesIO(content),
                    headers={**self._headers(content), **(headers or {})},
                )
            except (BrokenPipeError, ConnectionResetError):
                # A refusal may come before the body was sent.
                log.debug("%s did not take the whole request", self.base)
            response = Response(self, connection, wire, connection.getresponse())
        except BaseException as error:
            connection.close()
            translated = self.failed(error, waited_s)
            if translated is None:
                raise
            raise translated from error
        try:
            response.check()
        except BaseException:
            response.close()
            raise
        return response

    def failed(self, error: BaseException, waited_s: float) -> SwayError | None:
        """Translate what sockets, TLS and HTTP raise; none where it is something else."""
        base = self.base
        if isinstance(error, ssl.SSLCertVerificationError):
            message = f"{base} shows a certificate that is not trusted: {error.verify_message}"
            return Untrusted(message, _PIN_HINT)
        if isinstance(error, socket.timeout):
            return Unreachable(f"{base} did not answer within {waited_s:.1f} s")
        if isinstance(error, OSError):
            hint = "is a worker running there? `sway up` starts one; WORKER_URL names another"
            return Unreachable(f"{base} can't be reached: {error}", hint)
        if isinstance(error, http.client.HTTPException):
            return Unreachable(f"{base} broke off its answer: {type(error).__name__}")
        return None

    @property
    def _prefix(self) -> str:
        return urlsplit(self.base).path

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self.base)
        host = url.hostname or ""
        if self._tls is None:
            return http.client.HTTPConnection(host, url.port, timeout=CONNECT_S)
        return http.client.HTTPSConnection(host, url.port, timeout=CONNECT_S, context=self._tls)

    def _headers(self, content: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "sway-python"}
        if self.config.token is not None:
            headers["Authorization"] = f"Bearer {self.config.token}"
        if self.config.user is not None:
            headers["X-Sway-User"] = self.config.user
        if content is not None:
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(content))
        return headers

    def _check_pin(self, wire: ssl.SSLSocket) -> None:
        pin = self.config.worker_pin
        if pin is None:
            return
        shown = hashlib.sha256(wire.getpeercert(binary_form=True) or b"").hexdigest()
        if shown != pin:
            message = f"{self.base} shows a certificate that is not trusted: its SHA-256 is {shown}"
            raise Untrusted(message, _PIN_HINT)


class Response:
    """An answer whose body comes in pieces. Close it, or use it in ``with``."""

    def __init__(
        self,
        http: Http,
        connection: http.client.HTTPConnection,
        wire: socket.socket,
        response: http.client.HTTPResponse,
    ) -> None:
        self._http = http
        self._connection = connection
        self._wire = wire
        self._response = response
        length = response.getheader("Content-Length")
        self._left = int(length) if length is not None and length.isdigit() else None

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()
        self._connection.close()

    def read_piece(self, idle_s: float) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            Unreachable: Nothing came for so many seconds, or the answer broke off.
        """
        if self._left == 0:
            return b""
        most = _PIECE_BYTES if self._left is None else min(_PIECE_BYTES, self._left)
        try:
            self._wire.settimeout(max(idle_s, 0.001))
            piece = self._response.read1(most)
            if self._left is not None:
                self._left -= len(piece)
                if not piece:
                    raise http.client.IncompleteRead(b"")
        except Exception as error:
            translated = self._http.failed(error, idle_s)
            if translated is None:
                raise
            raise translated from error
        return piece

    def read(self, most: int, deadline: Deadline) -> bytes:
        """Return the whole body, of at most so many bytes."""
        body = bytearray()
        while True:
            if deadline.has_passed:
                base = self._http.base
                raise Unreachable(f"{base} did not answer within {deadline.after_s:.1f} s")
            piece = self.read_piece(min(IDLE_S, deadline.left_s))
            if not piece:
                return bytes(body)
            body += piece
            if len(body) > most:
                raise ProtocolError(f"{self._http.base} answers with more than {most} bytes")

    def check(self) -> None:
        """Raise what the worker refuses by this answer."""
        status = self._response.status
        if 200 <= status < 300:
            return
        content = self.read(64 << 10, Deadline(CALL_S))
        try:
            error = json.loads(content)["error"]
            code, message, hint = error["code"], error["message"], error.get("hint")
        except (ValueError, KeyError, TypeError):
            raise ProtocolError(f"{self._http.base} answers with status {status}") from None
        after = self._response.getheader("Retry-After", "")
        raise Refused(status, code, message, hint, float(after) if after.isdigit() else None)


def is_passing(error: SwayError) -> bool:
    """Whether the same call can succeed later."""
    if isinstance(error, Refused):
        return error.status == 429 or error.status >= 500
    return isinstance(error, Unreachable)


def _pause_s(error: SwayError, pauses: list[float]) -> float | None:
    """Seconds until the call may be made again; none where it would fail again."""
    if not is_passing(error):
        return None
    if isinstance(error, Refused) and error.retry_after_s is not None:
        return min(error.retry_after_s, RETRY_AFTER_S_MAX)
    return pauses.pop(0) * random.uniform(0.75, 1.25) if pauses else None


def _tls_context(config: Config) -> ssl.SSLContext | None:
    if not config.worker_url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if config.worker_pin is not None:
        # The one certificate is compared before anything is sent; that the worker holds its key
        # is checked by the handshake all the same.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
