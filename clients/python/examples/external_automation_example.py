"""A bot that decides for an owner, by the ``sway`` command: approval is manual, also for programs.

    python external_automation_example.py --name Aggregate

approves pending jobs whose name begins so, whose code the policy has nothing against, and that
ask for no network; it rejects all others. Replace `meets_my_criteria` by your own. A token with
the scopes ``read`` and ``approve`` is enough (SWAY_TOKEN).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any


def sway(*arguments: str) -> str:
    """Run the command; it tells on stderr what went wrong."""
    return subprocess.run(
        ["sway", *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def meets_my_criteria(job: dict[str, Any], review: dict[str, Any], name: str) -> bool:
    """Decide on a job; `review` has its files, findings, and the submitter's job before."""
    return (
        job["submission"]["name"].startswith(name)
        and not review["findings"]
        and job["network"] == "none"
    )


def decide(name: str) -> None:
    """Decide once on all that is pending."""
    for job in json.loads(sway("pending", "--json")):
        review = json.loads(sway("review", job["id"], "--json"))
        if meets_my_criteria(job, review, name):
            verb, reason = "approve", "Auto-approved by bot"
        else:
            verb, reason = "reject", "Does not meet criteria"
        # The digest is that of what was looked at above: nothing else gets approved.
        digest = review["job"]["submission"]["digest"]
        sys.stdout.write(sway(verb, job["id"], "--digest", digest, "-r", reason))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Decides on the jobs that are pending.")
    parser.add_argument("--name", required=True, help="what names of good jobs begin with")
    decide(parser.parse_args().name)
