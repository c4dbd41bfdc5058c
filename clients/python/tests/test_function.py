"""Functions in containers of a real worker."""

from __future__ import annotations

import time
import traceback

import pytest
from conftest import IMAGE

import sway
from sway._remote import check_json

pytestmark = pytest.mark.usefixtures("worker")

FACTOR = 3


def scaled(x: float) -> float:
    return x * FACTOR


@sway.function(image=IMAGE, memory="128M", cpus=1, env={"UNIT": "m"})
def measure(values: list[float], *, digits: int = 1) -> dict[str, object]:
    import os

    print("measuring", len(values))
    return {
        "sum": round(scaled(sum(values)), digits),
        "unit": os.environ["UNIT"],
        "pair": (1, None),
    }


@sway.function(image=IMAGE)
def divide(a: int, b: int) -> float:
    try:
        return a / b
    except ZeroDivisionError as error:
        raise ValueError("no such quotient") from error


@sway.function(image=IMAGE)
def odd(kind: str) -> object:
    values: dict[str, object] = {
        "set": {1},
        "nan": [float("nan")],
        "keys": {"a": {1: 2}},
        "bytes": b"",
    }
    return values[kind]


@sway.function(image=IMAGE, timeout=30)
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_function_gives_there_what_it_gives_here_but_for_tuples() -> None:
    expected = {"sum": 10.5, "unit": "m", "pair": [1, None]}
    assert measure.remote([1.0, 2.5]) == expected
    call = measure.spawn([1.04], digits=2)
    assert call.get(timeout=30) == {**expected, "sum": 3.12}
    assert call.get(timeout=30) == {**expected, "sum": 3.12}
    assert list(call.job.lines("stdout")) == ["measuring 1"]
    assert call.job.filename == "sway_function.measure"


def test_here_it_is_the_function_that_it_was() -> None:
    assert divide(6, 3) == divide.local(6, 3) == 2.0
    assert (divide.__name__, divide.__doc__) == ("divide", None)
    assert repr(divide) == "<sway.Function divide>"


def test_the_remote_traceback_is_in_the_exception() -> None:
    with pytest.raises(sway.FunctionFailed) as caught:
        divide.remote(1, 0)
    error = caught.value
    assert "divide failed in its container" in error.message
    assert error.message.endswith("ValueError: no such quotient")
    line = divide.__sway_function__.__code__.co_firstlineno + 3
    assert f'File "/code/test_function.py", line {line}, in divide' in error.traceback
    assert "ZeroDivisionError: division by zero" in error.traceback
    assert "sway_function" not in error.traceback
    assert error.traceback in "".join(traceback.format_exception_only(type(error), error))
    assert error.result.exit_code == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("set", "the result is of type builtins.set"),
        ("nan", r"the result\[0\] is nan"),
        ("keys", r"the result\['a'\] has the key 1 of type int"),
    ],
)
def test_results_that_json_would_change_are_refused_there(kind: str, message: str) -> None:
    with pytest.raises(sway.FunctionFailed, match=message):
        odd.remote(kind)


def test_arguments_that_json_would_change_are_refused_here() -> None:
    holds_itself: list[object] = []
    holds_itself.append(holds_itself)
    for bad, message in [
        ({1}, r"args\[0\] is of type builtins.set"),
        ({"a": [b""]}, r"args\[0\]\['a'\]\[0\] is of type builtins.bytes"),
        ({1: 2}, r"args\[0\] has the key 1 of type int"),
        (float("inf"), r"args\[0\] is inf"),
        (holds_itself, "holds itself"),
        (pytest, r"is of type builtins.module"),
    ]:
        with pytest.raises(sway.NotSendable, match=message):
            odd.remote(bad)  # type: ignore[arg-type]
    with pytest.raises(sway.NotSendable, match=r"more than 1048576"):
        odd.remote("x" * (1 << 20))
    check_json([None, True, 1 << 80, 1.5, "é", (1,), {"a": {}}], "all of it")


def test_a_function_that_takes_too_long_is_told_as_such() -> None:
    quick = sway.function(image=IMAGE, timeout=1)(nap.__sway_function__)
    with pytest.raises(sway.JobFailed, match="timeout after 1 s") as caught:
        quick.remote(20)
    assert not isinstance(caught.value, sway.FunctionFailed)


def test_map_keeps_the_order_and_takes_items_as_places_become_free() -> None:
    taken = []

    def items() -> object:
        for seconds in (0.3, 0.2, 0.1, 0.0):
            taken.append(seconds)
            yield seconds

    results = nap.map(items(), concurrency=2)  # type: ignore[arg-type]
    assert taken == []
    assert next(results) == 0.3
    assert taken == [0.3, 0.2, 0.1]
    assert list(results) == [0.2, 0.1, 0.0]
    with pytest.raises(ValueError, match="concurrency"):
        nap.map([], concurrency=0)


def test_a_map_that_ends_early_cancels_what_runs() -> None:
    results = nap.map([0.0, 20.0, 20.5], concurrency=3)
    assert next(results) == 0.0
    results.close()  # type: ignore[attr-defined]
    client = sway.Client()
    jobs = client.jobs()
    states = [next(jobs).wait(timeout=20).state for _ in range(2)]
    assert states == ["cancelled", "cancelled"]


def test_the_first_call_of_a_map_that_fails_ends_it() -> None:
    results = odd.map(["missing", "set"], concurrency=2)
    with pytest.raises(sway.FunctionFailed, match="KeyError: 'missing'"):
        list(results)


def test_a_spawned_call_can_be_waited_for_and_cancelled() -> None:
    call = nap.spawn(25)
    with pytest.raises(sway.WaitTimeout):
        call.get(timeout=0.2)
    call.cancel()
    with pytest.raises(sway.JobFailed, match="cancelled"):
        call.get(timeout=20)
