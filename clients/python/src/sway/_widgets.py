"""Cards and tables with buttons, where ipywidgets is installed (``pip install sway[jupyter]``).

What a button does runs in this process, with its token; the page only learns what is shown. All
HTML comes from `sway._html`, which escapes it. A button approves what its card or row shows, by
digest, and nothing else.
"""

from __future__ import annotations

from typing import Any, Callable

import ipywidgets as widgets

from . import _html
from ._errors import SwayError
from ._foreign import line
from ._quantity import show_size
from ._submission import STATES, JobList, Review, SubmittedJob

ROWS_MAX = 50
"""Rows with buttons at a time; a filter finds the others."""

LOG_LEN_MAX = 64 << 10
"""Letters of a log that are shown: its last ones."""

_REASON = "Reason, which the submitter sees"


class JobCard:
    """A job with buttons: `box` is the widget.

    Args:
        job: The job.
        review: Its code, where that is to be open at first.
        me: Who looks at it, where that is known: only its owner gets buttons to decide.
    """

    def __init__(
        self, job: SubmittedJob, review: Review | None = None, me: str | None = None
    ) -> None:
        self._job = job
        self._me = me or job.asking_user()
        self._face = widgets.HTML()
        self._said = widgets.HTML()
        self._detail = widgets.HTML(_html.review(review) if review else "")
        self.reason = _text(_REASON)
        self.approve = _button("Approve", self._said, lambda: self._decide(True), "success")
        self.reject = _button("Reject", self._said, lambda: self._decide(False), "danger")
        self.buttons = {
            "Review": _button("Review", self._said, self._review),
            "Logs": _button("Logs", self._said, self._logs),
            "Output": _button("Output", self._said, self._output),
            "Refresh": _button("Refresh", self._said, self._refresh),
        }
        self._decision = widgets.HBox([self.reason, self.approve, self.reject])
        looks = widgets.HBox(list(self.buttons.values()))
        self.box = widgets.VBox([self._face, self._decision, looks, self._said, self._detail])
        self._show()

    def _show(self) -> None:
        self._face.value = _html.card(self._job)
        may_decide = self._job.state == "pending" and self._job.owner == self._me
        self._decision.layout.display = None if may_decide else "none"

    def _decide(self, approved: bool) -> None:
        self._job = _decided(self._job, approved, self.reason.value)
        self._show()

    def _review(self) -> None:
        review = self._job.review()
        self._job = review.job
        self._detail.value = _html.review(review)
        self._show()

    def _logs(self) -> None:
        self._detail.value = _logs_of(self._job)

    def _output(self) -> None:
        self._detail.value = _output_of(self._job)

    def _refresh(self) -> None:
        self._job = self._job.refreshed()
        self._show()


class JobTable:
    """Jobs with a search, a filter by status, buttons for each, and decisions on several."""

    def __init__(self, jobs: JobList) -> None:
        self._jobs = jobs
        self._me = jobs.me
        self._chosen: set[str] = set()
        self._shown: list[SubmittedJob] = []
        self._said = widgets.HTML()
        self._count = widgets.HTML()
        self._detail = widgets.VBox([])
        self.search = _text("Search name, id, people, tags")
        self.status = widgets.Dropdown(options=["all", *STATES], layout={"width": "9em"})
        self.reason = _text(_REASON)
        self.approve = _button("Approve chosen", self._said, lambda: self._decide(True), "success")
        self.reject = _button("Reject chosen", self._said, lambda: self._decide(False), "danger")
        self.rows = widgets.VBox([])
        self._decision = widgets.HBox([self.reason, self.approve, self.reject])
        refresh = _button("Refresh", self._said, self._refresh)
        controls = [self.search, self.status, *([refresh] if jobs.again else [])]
        self.box = widgets.VBox(
            [
                widgets.HBox(controls),
                self.rows,
                self._count,
                self._decision,
                self._said,
                self._detail,
            ]
        )
        self.search.observe(lambda _: self._show(), names="value")
        self.status.observe(lambda _: self._show(), names="value")
        self._show()

    def _show(self) -> None:
        status = None if self.status.value == "all" else self.status.value
        found = self._jobs.matching(self.search.value, status)
        self._shown = found[:ROWS_MAX]
        self._close(self.rows)
        self.rows.children = [self._row(job) for job in self._shown]
        count = f"{len(self._shown)} of {len(self._jobs)} jobs"
        more = "; search for the others" if len(found) > len(self._shown) else ""
        self._count.value = f"<p>{count}{more}</p>"
        decidable = any(self._may_decide(job) for job in self._jobs)
        self._decision.layout.display = None if decidable else "none"

    def _row(self, job: SubmittedJob) -> Any:
        cells: list[Any] = []
        if self._may_decide(job):
            box = widgets.Checkbox(job.uid in self._chosen, indent=False, layout={"width": "2em"})
            box.observe(lambda change: self._choose(job.uid, change["new"]), names="value")
            cells.append(box)
        cells.append(widgets.HTML(_html.row(job), layout={"flex": "1 1 auto"}))
        cells.append(_button("Review", self._said, lambda: self._open(job.review())))
        if job.state not in ("pending", "approved", "rejected"):
            for name, tell in (("Logs", _logs_of), ("Output", _output_of)):
                cells.append(self._teller(name, tell, job))
        return widgets.HBox(cells)

    def _teller(self, name: str, tell: Callable[[SubmittedJob], str], job: SubmittedJob) -> Any:
        return _button(name, self._said, lambda: self._put(widgets.HTML(tell(job))))

    def _choose(self, uid: str, chosen: bool) -> None:
        (self._chosen.add if chosen else self._chosen.discard)(uid)

    def _may_decide(self, job: SubmittedJob) -> bool:
        return job.state == "pending" and job.owner == self._me

    def _open(self, review: Review) -> None:
        self._put(JobCard(review.job, review, self._me).box)

    def _put(self, detail: Any) -> None:
        self._close(self._detail)
        self._detail.children = [detail]

    def _decide(self, approved: bool) -> None:
        """Decide on what is chosen and seen; where one can't be decided on, the others are."""
        chosen = [job for job in self._shown if job.uid in self._chosen and self._may_decide(job)]
        failed = []
        for job in chosen:
            try:
                decided = _decided(job, approved, self.reason.value)
            except SwayError as error:
                failed.append(f"{job.uid}: {error.message}")
                continue
            self._chosen.discard(job.uid)
            self._jobs[self._jobs.index(job)] = decided
        self._show()
        word = "approved" if approved else "rejected"
        told = [f"{len(chosen) - len(failed)} {word}" if chosen else "no job is chosen", *failed]
        self._said.value = _html.pre("\n".join(told))

    def _refresh(self) -> None:
        if self._jobs.again is not None:
            self._jobs = self._jobs.again()
        self._show()

    @staticmethod
    def _close(parent: Any) -> None:
        """Let go of widgets that are not shown any more; the kernel would keep them all."""
        gone = list(parent.children)
        parent.children = []
        while gone:
            widget = gone.pop()
            gone += getattr(widget, "children", ())
            widget.close()


def _decided(job: SubmittedJob, approved: bool, reason: str) -> SubmittedJob:
    return job.approve(reason) if approved else job.reject(reason)


def _logs_of(job: SubmittedJob) -> str:
    return _html.pre(job.log_text()[-LOG_LEN_MAX:] or "it has printed nothing")


def _output_of(job: SubmittedJob) -> str:
    files = [
        f"{line(file.path, 500)}  {show_size(file.bytes) if file.kind == 'file' else file.kind}"
        for file in job.outputs()
    ]
    how = f"get_job_output({job.uid!r}) brings them here"
    return _html.pre("\n".join([*files, "", how] if files else ["it left no files"]))


def _text(placeholder: str) -> Any:
    return widgets.Text(placeholder=placeholder, layout={"width": "24em"})


def _button(name: str, said: Any, action: Callable[[], None], style: str = "") -> Any:
    """Make a button that says what went wrong: from its callback no exception is seen."""
    button = widgets.Button(description=name, button_style=style, layout={"width": "auto"})

    def clicked(_: Any) -> None:
        said.value = ""
        try:
            action()
        except (SwayError, OSError) as error:
            said.value = _html.pre(str(error))

    button.on_click(clicked)
    return button
