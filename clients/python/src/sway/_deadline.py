"""A point in time until which something is waited for."""

from __future__ import annotations

import time


class Deadline:
    """So many seconds from now."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._at = time.monotonic() + after_s

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(0.0, self._at - time.monotonic())

    @property
    def has_passed(self) -> bool:
        """Whether nothing is left."""
        return self.left_s <= 0
