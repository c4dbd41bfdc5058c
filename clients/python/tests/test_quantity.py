from __future__ import annotations

import pytest

import sway
from sway._quantity import cpus_milli, show_size, size_bytes, time_ms


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2 TB", 2 << 40),
    ],
)
def test_sizes_are_read_as_the_command_line_reads_them(written: int | str, size: int) -> None:
    assert size_bytes(written) == size


@pytest.mark.parametrize(
    ("written", "ms"),
    [(1, 1000), (0.0001, 1), (0.5, 500), ("90s", 90_000), ("1h30m", 5_400_000), ("5ms", 5)],
)
def test_times_are_read_as_the_command_line_reads_them(written: float | str, ms: int) -> None:
    assert time_ms(written) == ms


@pytest.mark.parametrize("bad", ["", "M", "1X", "1.2.3M", "-1", -1, True, None, 1.5])
def test_what_is_no_size_is_refused(bad: int | str) -> None:
    with pytest.raises(sway.NotSendable, match="not a size"):
        size_bytes(bad)


@pytest.mark.parametrize(
    "bad", ["", "5", "5 parsecs", 0, -1, True, None, float("nan"), float("inf")]
)
def test_what_is_no_time_is_refused(bad: float | str) -> None:
    with pytest.raises(sway.NotSendable, match="not a time"):
        time_ms(bad)


def test_cpus_are_thousandths() -> None:
    assert (cpus_milli(2), cpus_milli(0.5), cpus_milli(0.0014)) == (2000, 500, 1)
    for bad in (0, -1, float("nan"), True):
        with pytest.raises(sway.NotSendable, match="CPUs"):
            cpus_milli(bad)


def test_sizes_are_shown_in_the_largest_unit() -> None:
    assert [show_size(size) for size in (17, 1536, 256 << 20, 10 << 40)] == [
        "17 B",
        "1.5 KiB",
        "256 MiB",
        "10 TiB",
    ]
