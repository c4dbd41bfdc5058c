"""Text that somebody else wrote, made safe to look at.

What would move the cursor, change colours, or turn the order of letters around is shown instead of
done; the ``sway`` command does the same.
"""

from __future__ import annotations

import re

_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""Controls, letters that are not seen, and those that have others seen in another order."""


def shown(text: str) -> str:
    r"""Keep line ends and tabs, and show everything else that does something as ``\u{…}``."""
    return _ACTS.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", text)


def line(text: str, most: int) -> str:
    """Show a text on one line of at most so many letters."""
    text = shown(text).replace("\n", " ").replace("\t", " ")
    return text if len(text) <= most else text[: most - 1] + "…"


def moment(at: str) -> str:
    """Shorten an RFC 3339 time: ``2026-11-21 20:15:03Z``."""
    return line(at[:19].replace("T", " ") + "Z", 40)
