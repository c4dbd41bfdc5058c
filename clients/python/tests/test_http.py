from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import Worker

import sway
from sway import _http

Answers = list[tuple[int, dict[str, str], bytes]]


class FakeWorker:
    """Gives one answer after the other, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: Answers = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                fake.asked.append((self.command, self.path, headers, json.loads(body or b"null")))
                status, extra, content = fake.answers.pop(0)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **extra}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.client = sway.Client(url, user="ada", token="token-of-ada")

    def will_answer(self, status: int, told: object, **headers: str) -> None:
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, extra, json.dumps(told).encode()))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake() -> Iterator[FakeWorker]:
    fake = FakeWorker()
    yield fake
    fake.close()


def error(code: str, hint: str | None = None) -> object:
    return {"error": {"code": code, "message": f"it is {code}", "hint": hint}}


def test_requests_carry_token_user_and_one_key_however_often_they_are_sent(
    fake: FakeWorker,
) -> None:
    job = dict.fromkeys(["id", "filename", "image", "manifest", "created_at"], "x")
    fake.will_answer(503, error("stopping"))
    fake.will_answer(429, error("too_many_requests"), Retry_After="0")
    fake.will_answer(202, job)
    assert fake.client.submit(code="1").id == "x"
    assert len(fake.asked) == 3
    for method, path, headers, body in fake.asked:
        assert (method, path) == ("POST", "/v1/jobs")
        assert headers["authorization"] == "Bearer token-of-ada"
        assert headers["x-sway-user"] == "ada"
        assert headers["idempotency-key"] == fake.asked[0][2]["idempotency-key"]
        assert body["detach"] is True


def test_what_will_not_change_is_asked_once(fake: FakeWorker) -> None:
    fake.will_answer(404, error("image_not_found", "export it"))
    with pytest.raises(sway.Refused, match="it is image_not_found\nhint: export it") as caught:
        fake.client.submit(code="1")
    assert (caught.value.status, caught.value.code, caught.value.hint) == (
        404,
        "image_not_found",
        "export it",
    )
    assert len(fake.asked) == 1


def test_what_does_not_change_is_given_up(
    fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "PAUSES_S", (0.01, 0.01))
    for _ in range(3):
        fake.will_answer(500, error("internal"))
    with pytest.raises(sway.Refused, match="internal"):
        fake.client.images()
    assert len(fake.asked) == 3
    fake.will_answer(429, error("too_many_requests"), Retry_After="9")
    monkeypatch.setattr(_http, "CALL_S", 0.5)
    with pytest.raises(sway.Refused, match="too_many_requests"):
        fake.client.images()


@pytest.mark.parametrize("body", [b"<html>", b"\xff"])
def test_another_programs_answer_is_told(fake: FakeWorker, body: bytes) -> None:
    for status in (200, 404, 302):
        fake.answers.append((status, {}, body))
        with pytest.raises(sway.ProtocolError):
            fake.client.images()


def test_an_answer_that_breaks_off_is_asked_for_again(fake: FakeWorker) -> None:
    fake.answers.append((200, {"Content-Length": "100", "Connection": "close"}, b'{"images": []}'))
    fake.will_answer(200, {"images": []})
    assert fake.client.images() == []
    assert len(fake.asked) == 2


def test_a_worker_that_does_not_answer_is_not_waited_for_longer_than_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import socket

    monkeypatch.setattr(_http, "IDLE_S", 0.2)
    monkeypatch.setattr(_http, "PAUSES_S", ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = sway.Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(sway.Unreachable, match=r"did not answer within 0.2 s"):
            client.images()
        assert time.monotonic() - begun < 5


def test_where_no_worker_is_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "PAUSES_S", ())
    with pytest.raises(
        sway.Unreachable, match=r"127.0.0.1:1 can't be reached: .*refused.*\nhint: .*sway up"
    ):
        sway.Client("http://127.0.0.1:1").images()


def test_pages_are_asked_for_one_after_the_other(fake: FakeWorker) -> None:
    job = dict.fromkeys(["filename", "image", "manifest", "created_at"], "x")
    fake.will_answer(200, {"jobs": [{**job, "id": "2"}], "next_before": 2})
    fake.will_answer(200, {"jobs": [{**job, "id": "1"}]})
    assert [job.id for job in fake.client.jobs("running")] == ["2", "1"]
    assert [asked[1] for asked in fake.asked] == [
        "/v1/jobs?state=running",
        "/v1/jobs?state=running&before=2",
    ]


def test_a_run_of_a_newer_worker_is_read_and_one_without_figures_refused() -> None:
    limits = dict.fromkeys(
        ["timeout_ms", "memory_bytes", "cpus_milli", "pids", "output_bytes", "tmp_bytes"], 1
    )
    needed = [
        name
        for name, field in sway.Run.__dataclass_fields__.items()
        if "None" not in str(field.type)
    ]
    told = {**dict.fromkeys(needed, 1), "limits": limits, "cause": "exited", "of_tomorrow": 1}
    assert sway.Run.from_json(told).cause == "exited"
    del told["bytes_fetched"]
    with pytest.raises(sway.ProtocolError, match="a run without bytes_fetched"):
        sway.Run.from_json(told)


def test_only_the_pinned_certificate_is_accepted(
    tls_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = (tls_worker.data / "tls/fingerprint").read_text().strip()
    assert sway.Client(tls_worker.url, worker_pin=pin).images() is not None
    with pytest.raises(sway.Untrusted, match=r"not trusted: its SHA-256 is") as caught:
        sway.Client(tls_worker.url, worker_pin="00" * 32).images()
    assert "worker_pin" in str(caught.value)
    with pytest.raises(sway.Untrusted, match="not trusted"):
        sway.Client(tls_worker.url).images()


def test_a_wrong_token_is_refused(worker: Worker) -> None:
    with pytest.raises(sway.Refused, match="token") as caught:
        sway.Client(worker.url, token="wrong").images()
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
