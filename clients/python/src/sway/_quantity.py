"""Sizes, times and shares as people write them, as the command line reads them too."""

from __future__ import annotations

import math
import re

from ._errors import NotSendable

_SHIFTS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"(\d+|\d*\.\d+|\d+\.)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TIME = re.compile(r"(?:\d+(?:ms|s|m|h|d))+")
_TIME_PART = re.compile(r"(\d+)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def size_bytes(size: int | str) -> int:
    """Bytes of ``1048576``, ``"512M"`` or ``"1.5GiB"``; K, M, G and T are powers of 1,024."""
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        raise NotSendable(f"{size!r} is not a size", "give bytes, or a text such as '512M'")
    number, unit = match.groups()
    scale = 1 << _SHIFTS[unit.lower()]
    return int(number) * scale if number.isdigit() else int(float(number) * scale)


def time_ms(time: float | str) -> int:
    """Milliseconds of seconds as a number, or of ``"90s"``, ``"5m"``, ``"1h30m"``; never 0."""
    ms = 0
    if isinstance(time, str) and _TIME.fullmatch(time):
        ms = sum(int(number) * _UNIT_MS[unit] for number, unit in _TIME_PART.findall(time))
    elif isinstance(time, (int, float)) and not isinstance(time, bool) and math.isfinite(time):
        ms = math.ceil(time * 1000)
    if ms <= 0:
        raise NotSendable(f"{time!r} is not a time", "give seconds, or a text such as '5m'")
    return ms


def cpus_milli(cpus: float) -> int:
    """Thousandths of a CPU; never 0."""
    is_number = isinstance(cpus, (int, float)) and not isinstance(cpus, bool)
    milli = round(cpus * 1000) if is_number and math.isfinite(cpus) else 0
    if milli <= 0:
        raise NotSendable(f"{cpus!r} is not a number of CPUs", "give one such as 2 or 0.5")
    return milli


def show_size(size: float) -> str:
    """``256 MiB``, ``1.5 GiB``, ``17 B``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f}".replace(".0", "") + f" {units[0]}"
