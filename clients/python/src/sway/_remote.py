"""Calls a function in its container.

This file is sent along with the function, as ``sway_function.py``, and is imported on this side for
the rule of what can travel. It needs nothing but Python 3.7.
"""

import importlib
import math


def __getattr__(name):  # type: ignore[no-untyped-def]
    # The function's own name is asked for, so that its runs are on record under it.
    return call


def call(event, context):  # type: ignore[no-untyped-def]
    module = importlib.import_module(context["module"])
    result = getattr(module, context["function"])(*event["args"], **event["kwargs"])
    check_json(result, "the result")
    return result


def check_json(value: object, where: str) -> None:
    """Raise TypeError or ValueError, naming the first part of a value that JSON would change.

    None, bool, int, float, str, lists and dictionaries with text as keys travel as they are;
    tuples arrive as lists.
    """
    try:
        _check(value, where)
    except RecursionError:
        raise ValueError(f"{where} holds itself, or is nested too deeply for JSON") from None


def _check(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                kind = type(key).__name__
                raise TypeError(
                    f"{where} has the key {key!r} of type {kind}: in JSON keys are text"
                )
            _check(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}, which JSON does not have")
    elif value is not None and not isinstance(value, (str, int)):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{where} is of type {kind}, which JSON does not have")
