"""Jobs on a real worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
from conftest import IMAGE, Breaker, Worker

import sway

COUNT = "import time\nfor n in range({count}):\n    print(n, flush=True)\n    time.sleep({pause})\n"


def test_a_script_runs_and_tells_what_it_wrote_and_cost(worker: Worker, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['SEED'])\n"
        "print('é', file=sys.stderr)\nsys.exit(3)\n"
    )
    result = sway.run(
        script,
        image=IMAGE,
        args=["--fast", 1],
        env={"SEED": "7"},
        memory="128M",
        cpus=1,
        pids=32,
        timeout="20s",
    )
    assert (result.stdout, result.stderr) == ("['--fast', '1'] 7\n", "é\n")
    assert (result.state, result.exit_code, result.cause, result.ok) == (
        "failed",
        3,
        "exited",
        False,
    )
    assert result.run is not None
    limits = result.run.limits
    assert (limits.memory_bytes, limits.cpus_milli, limits.pids, limits.timeout_ms) == (
        128 << 20,
        1000,
        32,
        20_000,
    )
    assert (result.run.filename, result.run.username) == ("app.py", "tester")
    assert result.run.duration_ms is not None
    with pytest.raises(sway.JobFailed, match=r"app.py \(job .*\) exited with 3: é") as caught:
        result.check()
    assert caught.value.result is result


def test_code_runs_in_the_workers_default_image(worker: Worker) -> None:
    assert sway.run(code="print(6 * 7)", check=True).stdout == "42\n"


def test_a_folder_and_a_command_run(client: sway.Client, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/__init__.py").write_text("NAME = 'lib'")
    (tmp_path / "train.py").write_text("import lib; print(lib.NAME)")
    assert client.run(tmp_path, entry="train.py", image=IMAGE, check=True).stdout == "lib\n"
    assert client.run(command=["echo", "a  b"], args=["c"], image=IMAGE).stdout == "a  b c\n"


@pytest.mark.parametrize(
    ("code", "cause", "message"),
    [
        ("import time; time.sleep(60)", "timeout", r"timeout after 1 s\nhint: timeout= gives more"),
        (
            "x = b'x' * (1 << 28)",
            "memory_exceeded",
            r"memory_exceeded: more than 64 MiB\nhint: memory=",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
            "exited",
            "was ended by signal 15",
        ),
    ],
)
def test_a_failure_tells_its_cause_and_what_would_help(
    client: sway.Client, code: str, cause: str, message: str
) -> None:
    timeout = 1 if cause == "timeout" else 20
    with pytest.raises(sway.JobFailed, match=message) as caught:
        client.run(code=code, image=IMAGE, timeout=timeout, memory="64M", cpus=1, check=True)
    assert caught.value.result.cause == cause


def test_refusals_have_code_and_hint(client: sway.Client) -> None:
    with pytest.raises(sway.Refused, match="no image nope") as caught:
        client.run(code="1", image="nope")
    assert (caught.value.status, caught.value.code) == (404, "image_not_found")
    with pytest.raises(sway.Refused) as caught:
        client.run(code="1", image=IMAGE, memory="1T")
    assert caught.value.code == "limit_exceeded"
    with pytest.raises(sway.Refused) as caught:
        client.run(code="1", image=IMAGE, datasets=[sway.Dataset("nowhere")])
    assert caught.value.code == "dataset_not_found"


def test_lines_come_while_the_job_writes_them(client: sway.Client) -> None:
    job = client.submit(code=COUNT.format(count=3, pause=0.4), image=IMAGE)
    times = []
    lines = []
    for line in job.lines("stdout"):
        lines.append(line)
        times.append(time.monotonic())
    assert lines == ["0", "1", "2"]
    assert times[2] - times[0] > 0.5
    assert job.status == "completed"


def test_lines_are_whole_whatever_the_pieces(client: sway.Client) -> None:
    code = (
        "import sys, time\n"
        "for piece in (b'a\\xc3', b'\\xa9b', b'c\\nd\\ne', b'\\xff'):\n"
        "    sys.stdout.buffer.write(piece); sys.stdout.flush(); time.sleep(0.05)\n"
        "print('aside', file=sys.stderr)\n"
    )
    job = client.submit(code=code, image=IMAGE)
    assert list(job.lines("stdout")) == ["aébc", "d", "e\ufffd"]
    assert list(job.lines("stderr")) == ["aside"]
    assert sorted(job.lines()) == ["aside", "aébc", "d", "e\ufffd"]


def test_events_go_on_where_the_connection_broke_without_loss_or_repetition(
    client: sway.Client, breaker: Breaker
) -> None:
    job = client.submit(code=COUNT.format(count=40, pause=0.01), image=IMAGE, cpus=1)
    through = sway.Client(breaker.url, user="tester").job(job.id)
    # Samples of what it uses are told once, to who listens then.
    broken = [event for event in through.logs() if not isinstance(event, sway.UsageSampled)]
    assert breaker.broken >= 2
    assert broken == list(job.logs())
    output = b"".join(event.data for event in broken if isinstance(event, sway.OutputWritten))
    assert output == "".join(f"{n}\n" for n in range(40)).encode()
    assert isinstance(broken[-1], sway.JobEnded)
    assert list(job.logs(after=broken[1].id)) == broken[2:]


def test_what_a_job_uses_is_sampled_while_it_runs(client: sway.Client) -> None:
    code = (
        "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
        "time.sleep(1.2)"
    )
    job = client.submit(code=code, image=IMAGE, cpus=1)
    samples = [event for event in job.logs() if isinstance(event, sway.UsageSampled)]
    assert samples[-1].cpu_ms >= 300
    assert max(sample.memory_bytes for sample in samples) > 1 << 20
    run = job.wait(timeout=20).run
    assert run is not None
    assert run.cpu_ms is not None
    assert run.cpu_ms >= 300


def test_a_wait_ends_when_its_time_is_over_and_the_job_goes_on(client: sway.Client) -> None:
    job = client.submit(code="import time; time.sleep(30)", image=IMAGE, timeout=40)
    begun = time.monotonic()
    with pytest.raises(sway.WaitTimeout, match=r"did not end within 0.5 s") as caught:
        job.wait(timeout=0.5)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - begun < 5
    assert job.status in ("approved", "running")
    assert job.cancel() == "cancelled"
    result = job.wait(timeout=20)
    assert (result.state, result.cause) == ("cancelled", "cancelled")
    with pytest.raises(sway.Refused) as refused:
        job.cancel()
    assert refused.value.code == "job_ended"
    assert client.job(job.id[:9]).id == job.id


def test_an_interrupted_run_is_cancelled(client: sway.Client) -> None:
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    # Shells start what runs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.run(code="import time; time.sleep(30)", image=IMAGE, timeout=40)
    finally:
        signal.signal(signal.SIGINT, before)
    newest = next(client.jobs())
    assert newest.wait(timeout=20).state == "cancelled"


def test_one_key_makes_one_job(client: sway.Client) -> None:
    key = f"test-{time.monotonic_ns()}"
    jobs = [client.submit(code="print(1)", image=IMAGE, idempotency_key=key) for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    with pytest.raises(sway.Refused) as caught:
        client.submit(code="print(2)", image=IMAGE, idempotency_key=key)
    assert caught.value.code == "idempotency_key_reused"


def test_what_a_job_leaves_in_output_is_listed_read_and_saved(
    client: sway.Client, tmp_path: Path
) -> None:
    code = (
        "import os\nos.makedirs('/output/plots')\n"
        "open('/output/plots/a b.txt', 'w').write('text')\n"
        "os.symlink('plots/a b.txt', '/output/link')\n"
    )
    job = client.run(code=code, image=IMAGE, output=sway.Output(size="1M"), check=True).job
    assert [(file.path, file.kind, file.bytes) for file in job.outputs()] == [
        ("link", "link", 0),
        ("plots", "folder", 0),
        ("plots/a b.txt", "file", 4),
    ]
    assert job.output("plots/a b.txt") == b"text"
    with pytest.raises(sway.Refused) as caught:
        job.output("nowhere")
    assert caught.value.code == "output_not_found"
    saved = job.save_outputs(tmp_path / "saved")
    assert [str(path.relative_to(tmp_path)) for path in saved] == [
        "saved/link",
        "saved/plots/a b.txt",
    ]
    assert saved[1].read_text() == "text"
    with pytest.raises(FileExistsError):
        job.save_outputs(tmp_path / "saved")
    with pytest.raises(sway.Refused) as caught:
        client.run(code="1", image=IMAGE).job.outputs()
    assert caught.value.code == "no_outputs"


def test_a_dataset_is_read_by_its_name(client: sway.Client, tmp_path: Path) -> None:
    (tmp_path / "message.txt").write_text("from ada")
    script = tmp_path / "app.py"
    script.write_text("import os; print(os.environ['DATA_PATH'], open('/data/message.txt').read())")
    flags = ["--detach", "--json", "--image", IMAGE, "--data", str(tmp_path / "message.txt")]
    stored = subprocess.run(["sway", "run", *flags, str(script)], capture_output=True, check=True)
    name = json.loads(stored.stdout)["datasets"][0]["dataset"]
    data = [sway.Dataset(name, "message.txt", "file")]
    assert client.run(script, image=IMAGE, datasets=data).stdout == "/data/message.txt from ada\n"


def test_runs_jobs_and_images_are_listed_newest_first(client: sway.Client) -> None:
    done = client.run(code="print(1)", image=IMAGE)
    run = next(client.runs())
    assert done.run is not None
    assert (run.id, run.cause, run.stdout) == (done.run.id, "exited", None)
    assert next(client.runs("main.py")).id == run.id
    assert next(client.jobs("completed")).id == done.job.id
    labelled = client.run(code="print(2)", image=IMAGE, labels={"why": "test"})
    assert [job.id for job in client.jobs(label="why=test", query="main")] == [labelled.job.id]
    assert len(list(islice(client.runs(), 3))) == 3
    assert f"tester/{IMAGE}:latest" in [image.name for image in client.images()]
