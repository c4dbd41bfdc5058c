"""What jobs look like: as text, as HTML, and in Jupyter with buttons."""

from __future__ import annotations

import base64
import json
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

import sway
from sway import JobList, QueueStatus, Review, SubmittedJob
from sway._config import Config
from sway._errors import Refused
from sway._http import Http

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)> \' \u202eabc\x1b[2J'
TOKEN = "c0ffee-secret-token"


class FakeHttp(Http):
    """Decides as a worker would, on jobs with hostile names; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(Config(user="alice", token=TOKEN))
        self.jobs = {uid: told_job(uid) for uid in ("aaaa1111", "bbbb2222", "cccc3333")}
        self.asked: list[tuple[str, str, Any]] = []

    def call(self, method: str, path: str, body: object | None = None, headers: Any = None) -> Any:
        self.asked.append((method, path, body))
        if path == "/v1/queue":
            return {"owner": "alice"}
        if path.startswith("/v1/runs/"):
            return {"stdout": HOSTILE, "stderr": None}
        _, _, _, uid, *rest = path.split("/")
        if rest == ["review"]:
            return told_review(self.jobs[uid])
        if rest == ["outputs"]:
            return {"files": [{"path": HOSTILE, "kind": "file", "bytes": 3}]}
        if rest in (["approve"], ["reject"]):
            if uid == "cccc3333":
                raise Refused(409, "not_reviewed", f"it is another one {HOSTILE}")
            assert isinstance(body, dict)
            decision = {**body, "by": "alice", "at": "2026-11-21T20:00:00Z"}
            decision["approved"] = rest == ["approve"]
            self.jobs[uid]["state"] = "approved" if decision["approved"] else "rejected"
            self.jobs[uid]["submission"]["decision"] = decision
            return {"job": self.jobs[uid], "already": False}
        return self.jobs[uid]


def told_job(uid: str, state: str = "pending") -> dict[str, Any]:
    return {
        "id": uid,
        "username": HOSTILE,
        "image": "library/queue",
        "manifest": "ab" * 20,
        "filename": "run.sh",
        "state": state,
        "created_at": "2026-11-21T20:15:03.123Z",
        "limits": {
            "timeout_ms": 600_000,
            "memory_bytes": 1 << 30,
            "cpus_milli": 1000,
            "pids": 128,
        },
        "network": "none",
        "datasets": [{"name": HOSTILE, "kind": "file", "dataset": HOSTILE, "manifest": "cd"}],
        "submission": {
            "owner": "alice",
            "queue": "code-queue",
            "name": f"{uid} {HOSTILE}",
            "description": HOSTILE,
            "tags": [HOSTILE],
            "digest": f"digest of {uid}",
        },
        "run": {"id": 7, "message": HOSTILE},
    }


def told_review(job: dict[str, Any]) -> dict[str, Any]:
    def spec(code: str) -> dict[str, Any]:
        content = base64.b64encode(code.encode()).decode()
        file = {"path": HOSTILE, "content": content, "executable": True}
        program = {"kind": "folder", "files": [file], "entry": HOSTILE}
        return {"program": program, "args": [HOSTILE], "env": {HOSTILE: HOSTILE}}

    return {
        "job": job,
        "spec": spec(f"print(1)\n{HOSTILE}"),
        "findings": [{"file": HOSTILE, "line": 1, "column": 2, "reason": HOSTILE}],
        "previous": {"job": told_job("dddd4444", "completed"), "spec": spec("print(2)")},
    }


class Tags(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def expect_harmless(page: str) -> Tags:
    tags = Tags(page)
    known = {"div", "strong", "span", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert tags.found <= known | {"ul", "li", "details", "summary", "pre"}
    assert tags.attributes <= {"style", "open"}
    assert TOKEN not in page
    assert not any(letter in page for letter in "\u202e\x1b")
    return tags


@pytest.fixture
def http() -> FakeHttp:
    return FakeHttp()


@pytest.fixture
def jobs(http: FakeHttp) -> JobList:
    return JobList((SubmittedJob(http, told) for told in http.jobs.values()), me="alice")


def test_html_escapes_what_others_wrote_and_holds_no_token(http: FakeHttp, jobs: JobList) -> None:
    review = Review(http, told_review(http.jobs["aaaa1111"]))
    for shown in (jobs[0], jobs, review):
        tags = expect_harmless(shown._repr_html_())
        assert '<script>alert("1")</script>' in tags.text
        # Cells of tables are cut before that.
        assert shown is jobs or "\\u{202e}abc\\u{1b}[2J" in tags.text
    counts = dict.fromkeys(("pending", "completed"), 2)
    tags = expect_harmless(QueueStatus(HOSTILE, {}, counts, counts)._repr_html_())
    assert "for <script>" in tags.text


def test_text_does_nothing_to_a_terminal_and_keeps_its_lines(http: FakeHttp, jobs: JobList) -> None:
    review = Review(http, told_review(http.jobs["aaaa1111"]))
    for shown in (jobs[0], jobs, review):
        assert not any(letter in repr(shown) for letter in "\u202e\x1b")
    assert repr(jobs).splitlines()[0].split() == ["ID", "STATUS", "NAME", "BY", "TO", "SUBMITTED"]
    assert len(repr(jobs).splitlines()) == 4
    page = repr(review).splitlines()
    assert "    1 │ print(1)" in page
    assert "  -print(2)" in page
    assert "  +print(1)" in page
    assert repr(JobList()) == "no jobs"


def test_a_review_of_what_was_cleaned_up_says_so(http: FakeHttp) -> None:
    told: dict[str, Any] = {"job": http.jobs["aaaa1111"], "spec": None, "findings": []}
    review = Review(http, told)
    assert (review.files, review.changes, review.previous) == ([], [], None)
    assert ("code", "was cleaned up") in review.asks


def test_a_long_file_is_cut_where_it_is_shown_alone(http: FakeHttp) -> None:
    file = sway.SubmittedFile("a.py", b"x" * (300 << 10), False)
    assert file.text.endswith("\n… cut here: 45056 letters more")
    assert len(file.content) == 300 << 10


def test_lists_are_searched_and_filtered(jobs: JobList) -> None:
    jobs[0].state = "running"
    assert [job.uid for job in jobs.matching("BBBB")] == ["bbbb2222"]
    assert [job.uid for job in jobs.matching(status="running")] == ["aaaa1111"]
    assert jobs.matching("bbbb", "running") == []
    assert len(jobs.matching(" ALICE ")) == 3


def test_without_a_notebook_there_is_html_and_no_widget(jobs: JobList) -> None:
    assert set(jobs._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert set(jobs[0]._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_without_ipywidgets_a_notebook_gets_html(
    jobs: JobList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sway._display._has_kernel", lambda: True)
    monkeypatch.delitem(sys.modules, "sway._widgets", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(jobs._repr_mimebundle_()) == {"text/plain", "text/html"}


class TestWidgets:
    """With ipywidgets: what the buttons do."""

    @pytest.fixture(autouse=True)
    def _with_ipywidgets(self) -> None:
        pytest.importorskip("ipywidgets", reason="runs where the notebooks do")

    @staticmethod
    def pages(widget: Any) -> str:
        """All HTML below a widget, each piece harmless; its whole state holds no token."""
        found = ""
        for child in (widget, *getattr(widget, "children", ())):
            state = json.dumps(child.get_state(), default=str)
            assert TOKEN not in state
            if type(child).__name__ == "HTML":
                expect_harmless(child.value)
                found += child.value
            elif child is not widget:
                found += TestWidgets.pages(child)
        return found

    def test_a_notebook_gets_a_widget_beside_the_html(
        self, jobs: JobList, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sway._display._has_kernel", lambda: True)
        for shown in (jobs, jobs[0], jobs[0].review()):
            bundle = shown._repr_mimebundle_()
            assert set(bundle) == {
                "text/plain",
                "text/html",
                "application/vnd.jupyter.widget-view+json",
            }
            assert TOKEN not in json.dumps(bundle)

    def test_a_card_approves_what_it_shows(self, http: FakeHttp, jobs: JobList) -> None:
        from sway._widgets import JobCard

        card = JobCard(jobs[0])
        card.buttons["Review"].click()
        assert "print(1)" in self.pages(card.box)
        card.reason.value = "Looks <safe>"
        card.approve.click()
        body = {"reason": "Looks <safe>", "digest": "digest of aaaa1111"}
        assert ("POST", "/v1/jobs/aaaa1111/approve", body) in http.asked
        assert "Looks &lt;safe&gt;" in self.pages(card.box)
        for name in ("Logs", "Output", "Refresh"):
            card.buttons[name].click()
            assert "&lt;script&gt;" in self.pages(card.box)
        assert card._decision.layout.display == "none"

    def test_only_the_owner_gets_buttons_that_decide(self, jobs: JobList) -> None:
        from sway._widgets import JobCard, JobTable

        assert JobCard(jobs[0], me="bob")._decision.layout.display == "none"
        assert JobCard(jobs[0])._decision.layout.display is None
        assert JobTable(JobList(jobs, me="bob"))._decision.layout.display == "none"

    def test_a_button_tells_what_went_wrong(self, jobs: JobList) -> None:
        from sway._widgets import JobCard

        card = JobCard(jobs[2])
        card.reject.click()
        assert "it is another one &lt;script&gt;" in self.pages(card.box)

    def test_a_table_is_searched_filtered_and_decides_on_what_is_chosen(
        self, http: FakeHttp, jobs: JobList
    ) -> None:
        from sway._widgets import JobTable

        table = JobTable(jobs)
        self.pages(table.box)
        assert len(table.rows.children) == 3
        table.approve.click()
        assert "no job is chosen" in self.pages(table.box)
        for row in table.rows.children:
            row.children[0].value = True
        table.search.value = "bbbb"
        assert len(table.rows.children) == 1
        table.reason.value = "fine"
        table.approve.click()
        # Those that the search hides stay as they are, though they were chosen.
        assert [path for method, path, _ in http.asked if method == "POST"] == [
            "/v1/jobs/bbbb2222/approve"
        ]
        table.search.value = ""
        table.reject.click()
        page = self.pages(table.box)
        assert "1 rejected" in page
        assert "cccc3333: it is another one" in page
        table.status.value = "pending"
        assert [row.children[1].value.count("cccc3333") for row in table.rows.children] == [2]

    def test_a_row_opens_its_code_and_its_logs(self, http: FakeHttp, jobs: JobList) -> None:
        from sway._widgets import JobTable

        jobs[1].state = "completed"
        table = JobTable(jobs)
        buttons = {button.description: button for button in table.rows.children[1].children[1:]}
        assert set(buttons) == {"Review", "Logs", "Output"}
        buttons["Review"].click()
        assert "print(1)" in self.pages(table.box)
        buttons["Logs"].click()
        assert "\\u{202e}abc" in self.pages(table.box)
        buttons["Output"].click()
        assert "get_job_output(&#x27;bbbb2222&#x27;)" in self.pages(table.box)


def test_packages_are_told_with_their_versions_and_do_nothing(http: FakeHttp) -> None:
    told = http.jobs["aaaa1111"]
    package = {"name": f"six {HOSTILE}", "version": "1.0", "sha256": "00"}
    for packages, expected in [
        ({"state": "preparing"}, "are being installed"),
        ({"state": "ready", "image": "ef" * 20, "installed": [package]}, "==1.0"),
        ({"state": "ready", "image": "ef" * 20, "installed": []}, "the image has all"),
        ({"state": "left_to_image"}, "submitter's own image"),
        ({"state": "failed", "reason": HOSTILE}, "can't be installed"),
    ]:
        told["submission"]["packages"] = packages
        review = Review(http, told_review(told))
        assert expected in expect_harmless(review._repr_html_()).text
        assert expected in repr(review)
        assert "\x1b" not in repr(review)
