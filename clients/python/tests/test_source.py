from __future__ import annotations

import base64
import importlib.util
import linecache
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sway
from sway._source import Source, source_of


def load(folder: Path, text: str, name: str = "app") -> ModuleType:
    """Import a file of this text."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    linecache.checkcache(str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(source: Source, *args: Any) -> Any:
    """Call a function as its container does: from its text alone."""
    namespace: dict[str, Any] = {"__name__": source.module}
    exec(compile(source.text, "sent", "exec"), namespace)
    return namespace[source.function](*args)


def cell(number: int, text: str, namespace: dict[str, Any]) -> None:
    """Run a cell as notebooks do: a file of its own, all in one namespace."""
    name, text = f"<cell {number}>", textwrap.dedent(text)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), namespace)


def test_a_function_travels_with_what_it_uses_and_nothing_else(tmp_path: Path) -> None:
    module = load(
        tmp_path,
        '''
        """A script."""
        import math as m, os.path
        from json import dumps
        import sway

        FACTOR = 2
        SCALES = [FACTOR * 10,
                  3]
        unused = object()

        class Point:
            def __init__(self, x): self.x = scale(x)

        def scale(x):
            return x * SCALES[0] * m.floor(1.5)

        def other():
            return unused

        @sway.function(
            memory="1G",
        )
        def entry(x, text=dumps({})):
            """Has a comment."""
            return [Point(x).x, text, """
        kept""", os.path.join("a", "b")]

        print_me = entry.local(1)
        ''',
    )
    source = source_of(module.entry.__sway_function__)
    assert (source.module, source.function) == ("app", "entry")
    assert call(source, 3) == [60, "{}", "\nkept", "a/b"]
    assert "unused" not in source.text
    assert "sway" not in source.text
    assert "print_me" not in source.text


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    module = load(
        tmp_path,
        """
        import sway

        def helper():
            raise ValueError("here")

        @sway.function
        def entry():
            return helper()
        """,
    )
    source = source_of(module.entry.__sway_function__)
    here = (tmp_path / "app.py").read_text().splitlines()
    sent = source.text.splitlines()
    assert [(n, line) for n, line in enumerate(sent) if line] == [
        (n, here[n]) for n in (3, 4, 7, 8)
    ]


def test_helpers_may_be_remote_functions_too_and_call_each_other(tmp_path: Path) -> None:
    module = load(
        tmp_path,
        """
        import sway

        @sway.function
        def even(n):
            return n == 0 or odd(n - 1)

        @sway.function
        def odd(n):
            return n != 0 and even(n - 1)
        """,
    )
    assert call(source_of(module.even.__sway_function__), 10) is True
    assert call(source_of(module.odd.__sway_function__), 10) is False


def test_a_function_within_a_function_keeps_its_strings() -> None:
    @sway.function
    def inner(x: int) -> list[str]:
        return [textwrap.dedent("x")] * x + [
            """a
        b"""
        ]

    source = source_of(inner.__sway_function__)
    assert call(source, 2) == inner.local(2)


def test_what_other_cells_of_a_notebook_bind_is_sent_by_what_it_is() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "sway": sway}
    cell(
        1,
        "import math as m\nfrom json import dumps\nfrom collections import OrderedDict as Ordered",
        namespace,
    )
    cell(2, "WEIGHTS = {'a': [1, 2.5, None]}", namespace)
    cell(3, "OFFSET = 1\n\ndef helper(x):\n    return m.floor(x) + OFFSET", namespace)
    cell(
        4,
        "\n@sway.function\ndef f(x):\n    return dumps(Ordered(a=helper(x), b=WEIGHTS))",
        namespace,
    )
    source = source_of(namespace["f"].__sway_function__)
    assert call(source, 2.5) == '{"a": 3, "b": {"a": [1, 2.5, null]}}'
    assert source.module == "main"


def test_a_plain_value_is_there_what_it_is_here_now(tmp_path: Path) -> None:
    module = load(
        tmp_path,
        """
        import sys

        LIMIT = len(sys.argv) * 1000; NAME = "a\\nb"
        for STEP in range(3): pass
        try:
            import nowhere
        except ImportError:
            nowhere, IS_THERE = None, False

        def f(limit=LIMIT):
            return [limit, LIMIT, NAME, STEP, nowhere, IS_THERE]
        """,
    )
    now = module.f()
    source = source_of(module.f)
    assert "argv" not in source.text
    assert call(source) == now
    lines = source.text.splitlines()
    assert lines[module.f.__code__.co_firstlineno - 1] == "def f(limit=LIMIT):"
    vars(module)["LIMIT"] = {"a": (1, b"")}
    assert call(source_of(module.f), 0) == [0, {"a": (1, b"")}, *now[2:]]


def test_a_value_of_another_cell_is_the_one_of_now() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "sway": sway}
    cell(6, "LIMIT = 1", namespace)
    cell(7, "@sway.function\ndef f():\n    return LIMIT", namespace)
    for limit in (1, 2):
        namespace["LIMIT"] = limit
        [own, _] = namespace["f"]._source().files
        text = base64.b64decode(own["content"]).decode()
        assert call(Source("main", "f", text)) == limit


def test_what_has_no_text_is_refused_by_its_name() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "sway": sway, "connection": object()}
    cell(5, "@sway.function\ndef f():\n    return connection", namespace)
    with pytest.raises(sway.NotSendable, match=r"f uses connection, which can't be sent.*object"):
        source_of(namespace["f"].__sway_function__)


def test_no_module_stands_before_one_of_pythons_own(tmp_path: Path) -> None:
    if sys.version_info < (3, 10):
        pytest.skip("this Python does not tell its modules")
    module = load(tmp_path, "import sway\n@sway.function\ndef f(): pass", "statistics")
    assert source_of(module.f.__sway_function__).module == "main"


def test_lambdas_closures_methods_and_such_are_refused_at_once() -> None:
    around = 1

    def closure() -> int:
        return around

    class Holder:
        def method(self) -> None: ...

    async def waits() -> None: ...

    def yields() -> Any:
        yield 1

    for function, message in [
        (lambda: 1, "lambda has no source"),
        (closure, "closure: it uses around"),
        (Holder.method, "belongs to a class"),
        (waits, "is async"),
        (yields, "is a generator"),
        (len, "not a plain function"),
        (3, "not a plain function"),
    ]:
        with pytest.raises(sway.NotSendable, match=message):
            sway.function(function)  # type: ignore[call-overload]


def test_other_decorators_are_refused(tmp_path: Path) -> None:
    text = "import sway\ndef plain(f): return f\n@sway.function\n@plain\ndef f(): pass"
    with pytest.raises(sway.NotSendable, match="f has other decorators"):
        source_of(load(tmp_path, text).f.__sway_function__)
    text = "import sway, functools\n@sway.function\n@functools.lru_cache()\ndef f(): pass"
    with pytest.raises(sway.NotSendable, match="not a plain function"):
        load(tmp_path, text)


def test_imports_from_the_own_package_are_refused(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "near.py").write_text("def near(): pass")
    (package / "app.py").write_text("from .near import near\ndef f():\n    return near()\n")
    code = "import sway._source, package.app; sway._source.source_of(package.app.f)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "imports from its own package" in done.stderr


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    module = load(tmp_path, "def f():\n    return 1\n")
    (tmp_path / "app.py").write_text("X = 1\n\ndef f():\n    return 2\n")
    linecache.checkcache()
    with pytest.raises(sway.NotSendable, match="has changed since f was loaded"):
        source_of(module.f)


def test_a_function_without_a_file_is_told() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(): return 1", namespace)
    with pytest.raises(sway.NotSendable, match="source of f is not at hand") as caught:
        source_of(namespace["f"])
    assert "put the function into a file" in str(caught.value)
