"""A real worker for the tests that need one, and connections that break on the way to it.

The integration test gives what they need: the programs in PATH, a fileserver (FILESERVER_URL) with
the images ``tester/numpy`` and ``library/queue``, and its token (SWAY_TOKEN). Where these are
missing, they are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

import sway

IMAGE = "numpy"
OWNER = "data-owner@university.edu"
QUEUE_IMAGE = os.environ.get("SWAY_TEST_QUEUE_IMAGE", "library/queue")
OPERATOR = os.environ.get("SWAY_TOKEN")
"""The token that speaks for any user. Tests that act as users put theirs in its place."""

ROLES = {
    OWNER: "owner",
    "alice@example.org": "owner",
    "carol": "owner",
    "bob": "submitter",
    "eve": "submitter",
}
"""Users of `queue_worker`."""

TOKENS: dict[str, str] = {}
"""Their tokens, once it runs."""

START_S = 30.0
STOP_S = 30.0


class Worker:
    """A worker in a data directory of its own."""

    def __init__(self, data: Path, *flags: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port: int = free.getsockname()[1]
        scheme = "https" if "--tls-self-signed" in flags else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.data = data
        self._log = (data.parent / f"{data.name}.log").open("wb")
        listen = f"127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            ["sway-worker", "--data", str(data), "--listen", listen, *flags], stderr=self._log
        )

    def wait_until_it_answers(self) -> None:
        anyone = ssl.create_default_context()
        anyone.check_hostname = False
        anyone.verify_mode = ssl.CERT_NONE
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), urlopen(f"{self.url}/healthz", timeout=5, context=anyone):
                return
            time.sleep(0.05)
        self._log.flush()
        pytest.fail(f"no worker starts: {Path(self._log.name).read_text()[-2000:]}")

    def command(self, *arguments: str) -> str:
        """What the `sway` command prints for the operator."""
        return self._command(*arguments)

    def add_data(self, name: str, path: Path, owner: str) -> None:
        """Give an owner a dataset: the fileserver knows the operator's token alone."""
        self._command("data", "add", name, str(path), SWAY_USERNAME=owner)

    def _command(self, *arguments: str, **settings: str) -> str:
        environ = {**os.environ, "WORKER_URL": self.url, "SWAY_TOKEN": str(OPERATOR), **settings}
        done = subprocess.run(
            ["sway", *arguments], env=environ, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._log.close()


def started(data: Path, *flags: str) -> Iterator[Worker]:
    missing = [name for name in ("FILESERVER_URL", "SWAY_TOKEN") if not os.environ.get(name)]
    if missing or shutil.which("sway-worker") is None:
        pytest.skip("needs what `./integration_test.sh python` sets up")
    worker = Worker(data, *flags)
    try:
        worker.wait_until_it_answers()
        yield worker
    finally:
        worker.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a worker, so that ``-m "not live"`` leaves it out."""
    for item in items:
        if {"worker", "tls_worker", "queue_worker"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("live")


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Have a worker, and the environment name it."""
    data = tmp_path_factory.mktemp("worker") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for worker in started(data, "--default-image", f"tester/{IMAGE}"):
            patch.setenv("WORKER_URL", worker.url)
            patch.setenv("SWAY_USERNAME", "tester")
            yield worker


@pytest.fixture(scope="session")
def tls_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Have a worker with a certificate that it made itself."""
    yield from started(tmp_path_factory.mktemp("tls") / "data", "--tls-self-signed")


@pytest.fixture(scope="session")
def queue_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Have a worker with users, whose default image everybody can run."""
    data = tmp_path_factory.mktemp("queue") / "data"
    for worker in started(data, "--default-image", QUEUE_IMAGE):
        for user, role in ROLES.items():
            worker.command("user", "add", user, "--role", role)
            TOKENS[user] = worker.command("token", "add", user)
        yield worker


class Breaker:
    """Passes connections on, and breaks each after so many bytes of its answer."""

    def __init__(self, port: int, after_bytes: int) -> None:
        self._target = port
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.broken = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far, suppress(OSError):
            threading.Thread(target=self._copy_request, args=(near, far), daemon=True).start()
            left = self._after_bytes
            while left > 0:
                piece = far.recv(min(left, 4096))
                if not piece:
                    return
                near.sendall(piece)
                left -= len(piece)
            self.broken += 1
            # Closing alone would wait for the thread that reads.
            near.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _copy_request(near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while True:
                piece = near.recv(65536)
                if not piece:
                    return
                far.sendall(piece)


@pytest.fixture
def breaker(worker: Worker) -> Iterator[Breaker]:
    breaker = Breaker(worker.port, 2000)
    yield breaker
    breaker.close()


@pytest.fixture
def client(worker: Worker) -> sway.Client:
    return sway.Client(worker.url, user="tester")
