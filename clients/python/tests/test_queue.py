"""Every example of Syft Code Queue's document, with `sway` in its place, by two users."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import OPERATOR, OWNER, QUEUE_IMAGE, TOKENS, Worker

import sway as q

EXAMPLES = Path(__file__).parent.parent / "examples"

RUN_SH = """\
#!/bin/bash
set -e
echo "Starting analysis..."
# Install dependencies
if [ -f requirements.txt ]; then
pip install -r requirements.txt
fi
# Run analysis
python analyze.py
echo "Analysis complete!"
"""

ANALYZE = """\
import csv, os
with open(os.environ["DATA_PATH"]) as data:
    total = sum(int(row["rain"]) for row in csv.DictReader(data))
with open(os.path.join(os.environ["OUTPUT_DIR"], "sums.csv"), "w") as out:
    print("rain", total, sep=",", file=out)
"""


@contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Be somebody else, by their token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SWAY_USERNAME", raising=False)
        patch.setenv("SWAY_TOKEN", TOKENS[user])
        yield


@pytest.fixture(autouse=True)
def _worker_and_folder(
    queue_worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("WORKER_URL", queue_worker.url)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my_analysis"
    folder.mkdir()
    (folder / "run.sh").write_text(RUN_SH)
    (folder / "analyze.py").write_text(ANALYZE)
    with acting_as("bob"):
        yield
    q.configure(q.QueueConfig())


@pytest.fixture(scope="module")
def weather(queue_worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "weather.csv"
    path.write_text("day,rain\n1,40\n2,2\n")
    queue_worker.add_data("weather", path, OWNER)
    return "weather"


def submit_hello(name: str = "Hello World Test") -> q.SubmittedJob:
    return q.submit_script(target_email=OWNER, script_content="print('Hello, world!')", name=name)


def test_a_folder_is_submitted_reviewed_approved_and_run(weather: str, tmp_path: Path) -> None:
    job = q.submit_job(
        target_email=OWNER,
        code_folder="./my_analysis",
        name="Statistical Analysis",
        description="Aggregate statistics computation",
        tags=["statistics", "privacy-safe"],
        data=[weather],
    )
    assert f"Status: {job.status}" == "Status: pending"
    assert job.uid in repr(q.my_jobs())
    assert q.jobs_for_others[0].uid == job.uid
    assert job.uid not in [other.uid for other in q.pending_for_me()]
    with pytest.raises(q.Refused) as refused:
        q.approve(job.uid, "mine")
    assert refused.value.status == 403

    with acting_as(OWNER):
        assert q.pending_for_me()[0].uid == job.uid
        assert q.pending_for_me[0].name == "Statistical Analysis"
        review = q.review_job(job.uid)
        assert {file.path for file in review.files} == {"run.sh", "analyze.py"}
        page = str(review)
        for text in (
            "weather@",
            "/data/weather.csv",
            "600 s, 1 GiB",
            'echo "Starting analysis..."',
        ):
            assert text in page
        assert any(found.file == "analyze.py" for found in review.findings)
        assert q.approve(job.uid, "Looks safe").reason == "Looks safe"
        assert q.approve(job.uid, "again").reason == "Looks safe"

    done = q.wait_for_completion(job.uid, timeout=120)
    assert (done.status, done.reason) == ("completed", "Looks safe")
    output = q.get_job_output(job.uid)
    assert (output / "sums.csv").read_text() == "rain,42\n"
    assert output.resolve() == tmp_path / "jobs" / job.uid / "output"
    assert q.get_job_output(job.uid) == output
    assert q.get_job_output(job.uid, tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert q.get_job_logs(job.uid) == "Starting analysis...\nAnalysis complete!\n"
    assert q.get_job(job.uid[:9]).status == "completed"


def test_a_script_is_rejected_and_its_submitter_is_told_why() -> None:
    job = submit_hello()
    assert job.status == "pending"
    with acting_as(OWNER):
        assert q.reject(job.uid, "Too broad").state == "rejected"
    done = q.wait_for_completion(job.uid, timeout=60)
    assert (done.status, done.reason) == ("rejected", "Too broad")
    assert q.get_job_logs(job.uid) == ""
    with pytest.raises(q.Refused) as refused:
        q.get_job_output(job.uid)
    assert refused.value.code == "no_outputs"
    with acting_as(OWNER), pytest.raises(q.Refused) as refused:
        q.approve(job.uid)
    assert refused.value.code == "decided"


def test_a_script_goes_by_position_with_its_requirements_and_tags() -> None:
    job = q.submit_script(
        OWNER, "print(1)", "Positional", "By position", ["numpy", "scipy"], ["statistics"]
    )
    assert (job.description, job.tags) == ("By position", ["statistics"])
    with acting_as(OWNER):
        files = {file.path: file.text for file in q.review_job(job.uid).files}
        assert files == {"main.py": "print(1)", "requirements.txt": "numpy\nscipy\n"}
        q.reject(job.uid, "seen")


def test_a_folder_goes_by_position_and_all_that_the_document_calls_is_there() -> None:
    job = q.submit_job(OWNER, "./my_analysis", "Positional", "By position", ["statistics"])
    print(f"Job submitted: {job.uid}")
    print(f"Status: {job.status}")  # Will be 'pending'
    assert (job.description, job.tags, job.status) == ("By position", ["statistics"], "pending")
    assert job.uid in repr(job)
    for shown in (q.my_jobs(), q.jobs_for_others, q.pending_for_me, q.jobs_for_me, q.status()):
        assert repr(shown)
    config = q.QueueConfig(
        queue_name="code-queue",
        max_concurrent_jobs=3,
        job_timeout=600,  # 10 minutes
        cleanup_completed_after=86400,  # 24 hours
    )
    with acting_as(OWNER):
        q.configure(config)
        assert q.status().settings["cleanup_completed_after_s"] == 86400
        assert job.uid in [other.uid for other in q.all_jobs_for_me()]
        assert q.reject(job.uid, "Too broad").status == "rejected"


def test_a_review_shows_what_changed_and_approves_nothing_else() -> None:
    first = submit_hello("Changing")
    with acting_as(OWNER):
        q.review_job(first.uid).approve("ok")
    q.wait_for_completion(first.uid, timeout=120)
    second = q.submit_script(OWNER, "print('Hello, you!')", "Changing", timeout=60)
    with acting_as(OWNER):
        review = q.review_job(second.uid)
        assert review.previous is not None
        assert review.previous.uid == first.uid
        assert "-print('Hello, world!')" in review.changes
        assert "+print('Hello, you!')" in review.changes
        assert any(text.startswith("+limits 60 s") for text in review.changes)
        review.job.digest = "0" * 64
        with pytest.raises(q.Refused) as refused:
            review.approve("another one")
        assert refused.value.code == "not_reviewed"
        q.reject(second.uid)


def test_a_wait_ends_when_its_time_is_over_and_the_job_stays_pending() -> None:
    job = submit_hello()
    with pytest.raises(q.WaitTimeout):
        q.wait_for_completion(job.uid, timeout=0.5)
    assert job.status == "pending"

    def decide() -> None:
        time.sleep(0.3)
        q.Queue(q.Client(token=TOKENS[OWNER])).approve(job.uid, "meanwhile")

    thread = threading.Thread(target=decide)
    thread.start()
    assert q.wait_for_completion(job.uid, timeout=120).status == "completed"
    thread.join()
    assert q.get_job_logs(job.uid) == "Hello, world!\n"


def test_a_job_that_fails_tells_so() -> None:
    job = q.submit_script(OWNER, "import sys; print('out'); sys.exit('no')", "Failing")
    with acting_as(OWNER):
        q.approve(job.uid)
    assert q.wait_for_completion(job.uid, timeout=120).status == "failed"
    assert q.get_job_logs(job.uid) == "out\nno\n"


def test_status_counts_and_lists_are_of_the_one_who_asks() -> None:
    before = q.status()
    job = submit_hello()
    now = q.status()
    assert now.owner == "bob"
    assert now.by_me["pending"] == before.by_me["pending"] + 1
    assert str(now).splitlines()[0] == "jobs for bob: none"
    assert job.uid in [mine.uid for mine in q.my_jobs("pending")]
    assert job.uid not in [mine.uid for mine in q.my_jobs("completed")]
    with acting_as("eve"):
        assert q.my_jobs() == q.jobs_for_me() == []
        with pytest.raises(q.Refused) as refused:
            q.get_job(job.uid)
        assert refused.value.code == "job_not_found"
    with acting_as(OWNER):
        assert job.uid in [other.uid for other in q.all_jobs_for_me()]
        q.reject(job.uid)
        assert job.uid not in [other.uid for other in q.pending_for_me]


def test_help_tells_every_function(capsys: pytest.CaptureFixture[str]) -> None:
    q.help()
    told = capsys.readouterr().out
    for name in ("submit_job", "submit_script", "my_jobs", "approve", "reject", "review_job"):
        assert f"q.{name}(" in told


def test_a_configuration_sets_what_ones_own_queue_grants() -> None:
    config = q.QueueConfig(
        queue_name="code-queue",
        max_concurrent_jobs=2,
        job_timeout=300,  # 5 minutes
        cleanup_completed_after=3600,
    )
    with acting_as("carol"):
        q.configure(config)
        settings = q.status().settings
        assert settings["max_concurrent_jobs"] == 2
        assert settings["job_timeout_s"] == 300
        assert settings["cleanup_completed_after_s"] == 3600
        q.configure(q.QueueConfig(queue_name="nightly"))
        assert q.status().settings == settings
    job = q.submit_script("carol", "print(1)", "Nightly")
    assert job.queue_name == "nightly"
    assert [mine.uid for mine in q.my_jobs()] == [job.uid]
    q.configure(q.QueueConfig(queue_name="code-queue"))
    assert job.uid not in [mine.uid for mine in q.my_jobs()]
    q.configure(q.QueueConfig())
    assert job.uid in [mine.uid for mine in q.my_jobs()]
    with pytest.raises(q.Refused, match="timeout"):
        q.submit_script("carol", "print(1)", "Too long", timeout=301)
    with acting_as("carol"):
        q.reject(job.uid)


def test_owners_that_the_command_knows_are_reached_at_their_workers(
    worker: Worker, tmp_path: Path
) -> None:
    # Undone before what the module's fixture has patched.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWAY_DATA", str(tmp_path / "data"))
        patch.setenv("SWAY_USERNAME", "bob")
        token = tmp_path / "token"
        token.write_text(str(OPERATOR))
        add = ["sway", "owner", "add", "tester", worker.url, "--queue", "nightly"]
        subprocess.run([*add, "--token-file", str(token)], check=True)
        job = q.submit_script("tester", "print('far')", "Known")
        assert (job.queue_name, job.owner) == ("nightly", "tester")
        assert q.get_job(job.uid).uid == job.uid
        assert job.uid in [mine.uid for mine in q.my_jobs()]
        told = subprocess.run(
            ["sway", "status", job.uid], check=True, stdout=subprocess.PIPE, text=True
        )
        assert "pending" in told.stdout
        q.configure(q.QueueConfig(owners={}))
        assert job.uid not in [mine.uid for mine in q.my_jobs()]
        q.Queue(q.Client(worker.url, user="tester", token=OPERATOR)).reject(job.uid)


def test_owners_can_have_workers_of_their_own(worker: Worker) -> None:
    far = q.Client(worker.url, user="bob", token=OPERATOR)
    q.configure(q.QueueConfig(owners={"tester": far}))
    near_job = submit_hello("Near")
    far_job = q.submit_script("tester", "print('far')", "Far")
    assert far_job.uid in [job.id for job in q.Queue(far).my_jobs()]
    both = q.my_jobs("pending")
    assert {far_job.uid, near_job.uid} <= {job.uid for job in both}
    assert [job.created_at for job in both] == sorted(
        (job.created_at for job in both), reverse=True
    )
    q.Queue(q.Client(worker.url, user="tester", token=OPERATOR)).approve(far_job.uid)
    assert q.wait_for_completion(far_job.uid, timeout=120).status == "completed"
    assert q.get_job_logs(far_job.uid) == "far\n"
    with acting_as(OWNER):
        q.reject(near_job.uid)


def test_a_bot_approves_what_meets_its_criteria(queue_worker: Worker) -> None:
    good, bad = submit_hello("Aggregate sums"), submit_hello("Everything")
    few = queue_worker.command("token", "add", OWNER, "--scopes", "read,approve")
    environ = {**os.environ, "SWAY_TOKEN": few}
    bot = [sys.executable, str(EXAMPLES / "external_automation_example.py"), "--name", "Aggregate"]
    done = subprocess.run(bot, env=environ, capture_output=True, text=True, check=True)
    assert f"{good.uid} approved" in done.stdout
    assert f"{bad.uid} rejected" in done.stdout
    assert q.wait_for_completion(good.uid, timeout=120).reason == "Auto-approved by bot"
    assert q.get_job(bad.uid).reason == "Does not meet criteria"


def test_what_makes_no_sense_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(q.NotSendable, match=r"has no run.sh\nhint: run.sh starts"):
        q.submit_job(OWNER, tmp_path / "empty", "x")
    with pytest.raises(q.NotSendable, match="is not a folder"):
        q.submit_job(OWNER, tmp_path / "nowhere", "x")
    with pytest.raises(q.NotSendable, match="is one text"):
        q.submit_script(OWNER, "1", "x", tags="statistics")
    with pytest.raises(q.NotSendable, match="offers no dataset 'nothing'"):
        q.submit_script(OWNER, "1", "x", data=["nothing"])
    with pytest.raises(q.NotSendable, match="there is no status 'done'"):
        q.my_jobs("done")
    # Who may only submit runs nothing without an owner's decision.
    with pytest.raises(q.Refused) as refused:
        q.submit(code="print(1)", image=QUEUE_IMAGE)
    assert refused.value.status == 403
    with acting_as(OWNER):
        direct = q.submit(code="print(1)", image=QUEUE_IMAGE)
        direct.wait(timeout=60)
        with pytest.raises(q.SwayError, match="nobody decides"):
            q.get_job(direct.id)


def test_the_buttons_of_cards_and_tables_decide() -> None:
    pytest.importorskip("ipywidgets", reason="runs where the notebooks do")
    from sway._widgets import JobCard, JobTable

    names = ("By card", "By table", "By table too", "Left alone")
    by_card, *by_table, left = (submit_hello(name) for name in names)
    with acting_as(OWNER):
        card = JobCard(q.get_job(by_card.uid))
        card.buttons["Review"].click()
        assert "Hello, world!" in card.box.children[-1].value
        card.reason.value = "By a click"
        card.approve.click()
        table = JobTable(q.pending_for_me())
        table.search.value = "by table"
        assert len(table.rows.children) == 2
        for row in table.rows.children:
            row.children[0].value = True
        table.reason.value = "Both by a click"
        table.reject.click()
    assert q.wait_for_completion(by_card.uid, timeout=120).reason == "By a click"
    for job in by_table:
        assert (job.status, job.refreshed().reason) == ("rejected", "Both by a click")
    assert left.status == "pending"
    with acting_as(OWNER):
        q.reject(left.uid)
