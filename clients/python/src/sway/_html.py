"""Jobs as HTML: static, without scripts or styles of the page's own, in light and dark alike.

Whatever somebody wrote goes through `text`, which also shows what is invisible or would turn the
order of letters around.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._foreign import line, moment, shown

if TYPE_CHECKING:
    from ._queue import QueueStatus
    from ._submission import JobList, Review, SubmittedJob

ROWS_MAX = 200
"""Jobs that one table shows."""

_COLOURS = {
    "pending": "#8a5a00",
    "approved": "#1a5fb4",
    "running": "#1a5fb4",
    "completed": "#26703d",
    "failed": "#a8201a",
    "rejected": "#a8201a",
}
_GREY = "#5e5c64"
_LINE = "1px solid rgba(128,128,128,.4)"
_CELL = "text-align:left;vertical-align:top;padding:4px 10px"
_PRE = "white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0"


def text(foreign: str) -> str:
    """Escape a text, and show what is invisible in it."""
    return html.escape(shown(foreign), quote=True)


def one_line(foreign: str, most: int) -> str:
    """Escape a text, on one line of at most so many letters."""
    return html.escape(line(foreign, most), quote=True)


def badge(state: str) -> str:
    """Show a state in its colour; white on dark, whatever the page is."""
    style = f"background:{_COLOURS.get(state, _GREY)};color:#fff;border-radius:9px;padding:1px 9px"
    return f'<span style="{style}">{one_line(state, 20)}</span>'


def card(job: SubmittedJob) -> str:
    """Show a job."""
    facts = [
        ("id", job.uid),
        ("by", job.submitter),
        ("to", job.owner),
        ("submitted", moment(job.created_at)),
        ("tags", ", ".join(job.tags)),
    ]
    if job.decision is not None:
        facts.append(("decided", f"by {job.decision.by} at {moment(job.decision.at)}"))
        facts.append(("reason", job.decision.reason))
    if job.packages:
        facts.append(("packages", ", ".join(job.packages)))
    if job.message:
        facts.append(("note", job.message))
    description = f'<p style="{_PRE}">{text(job.description)}</p>' if job.description else ""
    return (
        f'<div style="border:{_LINE};border-radius:6px;padding:8px 12px;max-width:60em">'
        f"<strong>{one_line(job.name, 200)}</strong> {badge(job.state)}{description}"
        f"{_facts(facts)}</div>"
    )


def row(job: SubmittedJob) -> str:
    """Show a job in a line."""
    people = f"{one_line(job.submitter, 60)} → {one_line(job.owner, 60)}"
    return (
        f"<code>{one_line(job.uid, 40)}</code> {badge(job.state)} "
        f"<strong>{one_line(job.name, 60)}</strong> {people}"
    )


def table(jobs: JobList) -> str:
    """Show jobs, a row each."""
    if not jobs:
        return "<p>no jobs</p>"
    rows = [
        [
            f"<code>{one_line(job.uid, 40)}</code>",
            badge(job.state),
            one_line(job.name, 60),
            one_line(job.submitter, 60),
            one_line(job.owner, 60),
            f'<span style="white-space:nowrap">{one_line(moment(job.created_at), 40)}</span>',
        ]
        for job in jobs[:ROWS_MAX]
    ]
    more = f"<p>and {len(jobs) - ROWS_MAX} older ones</p>" if len(jobs) > ROWS_MAX else ""
    return _table(["id", "status", "name", "by", "to", "submitted"], rows) + more


def review(review: Review) -> str:
    """Show all that a decision needs: facts, findings, changes, and every file."""
    findings = "".join(
        f"<li><code>{one_line(found.file, 200)}:{found.line}:{found.column}</code> "
        f"{one_line(found.reason, 500)}</li>"
        for found in review.findings
    )
    more = " (and more)" if review.more_findings else ""
    parts = [
        card(review.job),
        _facts([("digest", review.job.digest), *review.asks]),
        f"<p>Findings of the policy{more}{':' if findings else ': none'}</p>",
        f"<ul>{findings}</ul>" if findings else "",
    ]
    if review.previous is not None:
        title = f"Changes since {review.previous.uid}" + ("" if review.changes else ": none")
        parts.append(_folded(title, "\n".join(review.changes)))
    for file in review.files:
        note = f"{line(file.path, 200)} ({len(file.content)} bytes"
        note += ", executable)" if file.executable else ")"
        parts.append(_folded(note, file.text))
    return "<div>" + "".join(parts) + "</div>"


def status(status: QueueStatus) -> str:
    """Show how many jobs there are."""
    states = list(status.for_me)
    rows = [
        [f"{title} {one_line(status.owner, 60)}", *(str(counts[state]) for state in states)]
        for title, counts in (("for", status.for_me), ("by", status.by_me))
    ]
    return _table(["jobs", *states], rows)


def pre(foreign: str) -> str:
    """Show a text as it was written."""
    return f'<pre style="{_PRE}">{text(foreign)}</pre>'


def _folded(title: str, content: str) -> str:
    return f"<details open><summary>{one_line(title, 300)}</summary>{pre(content)}</details>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return _table([], [[one_line(name, 40), one_line(told, 2000)] for name, told in facts if told])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table of cells that are HTML already."""
    titles = "".join(f'<th style="{_CELL};border-bottom:{_LINE}">{cell}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{titles}</tr></thead>" if titles else ""
    style = "border-collapse:collapse;color:inherit;font-size:inherit"
    return f'<table style="{style}">{head}<tbody>{body}</tbody></table>'
