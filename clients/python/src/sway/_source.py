"""The source of a function, with what it needs of the file around it.

What is sent is the function's own file with everything blanked out but the function and the
top-level statements that bind the names it uses: imports, helpers, classes, and what those use. So
lines keep their numbers, and a traceback from a container fits the file here. A name that stands
for a plain value has there the value that it has here now, however it came by it. A name that the
file does not bind, as in a notebook, whose cells are files of their own, is sent by what it stands
for: a module, a function of another cell, a plain value.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import linecache
import math
import re
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import CodeType, FunctionType, ModuleType
from typing import Any, Callable, NamedTuple, Union, cast

from ._errors import NotSendable

_Definition = Union[ast.FunctionDef, ast.AsyncFunctionDef]


class Source(NamedTuple):
    """A module that holds a function: its name, the function's, and its text."""

    module: str
    function: str
    text: str


def check_function(function: Any) -> None:
    """Refuse what has no source that could run alone.

    Raises:
        NotSendable: It is no plain function, or is bound to what surrounds it.
    """
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        raise NotSendable(
            f"{function!r} is not a plain function",
            "sway.function has to be the only decorator, directly above def",
        )
    name = function.__qualname__
    if function.__name__ == "<lambda>":
        raise NotSendable("a lambda has no source of its own", "write it as a function with def")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise NotSendable(f"{name} is async", "call asyncio.run in a plain function")
    if inspect.isgeneratorfunction(function):
        raise NotSendable(f"{name} is a generator", "return a list")
    if function.__code__.co_freevars:
        variables = ", ".join(function.__code__.co_freevars)
        raise NotSendable(
            f"{name} is a closure: it uses {variables} of the function around it",
            "pass them as arguments",
        )
    if "." in name and not name.endswith(f"<locals>.{function.__name__}"):
        raise NotSendable(f"{name} belongs to a class", "write a function outside of it")


def source_of(function: Callable[..., object]) -> Source:
    """Collect what a function needs to run alone.

    Raises:
        NotSendable: Its source is not at hand, or it uses what can't be sent.
    """
    check_function(function)
    plain = cast("FunctionType", function)
    text = _Collected(plain).text()
    return Source(_module_name(plain.__code__.co_filename), plain.__name__, text)


def unwrapped(value: Any) -> Any:
    """Give the plain function behind what `sway.function` made of it; anything else as it is."""
    return getattr(value, "__sway_function__", value)


class _Collected:
    """Statements of one or more files that a function needs."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self._globals = function.__globals__
        self._files: dict[str, _File] = {}
        self._settled: set[str] = set()
        self._added: list[str] = []
        own = self._file_of(function)
        for name in own.keep_function(function):
            self._settle(name, own)

    def text(self) -> str:
        """Return the module's text: the function's own file, then what is from elsewhere."""
        own, *others = self._files.values()
        lines = [own.text(), *(other.text().strip("\n") for other in others), *self._added]
        return "\n".join(lines) + "\n"

    def _file_of(self, function: FunctionType) -> _File:
        name = function.__code__.co_filename
        if name not in self._files:
            self._files[name] = _File(function)
        return self._files[name]

    def _settle(self, name: str, file: _File) -> None:
        """Have a name mean in the container what it means in a file here."""
        if name in self._settled or name == self._function.__name__:
            return
        self._settled.add(name)
        value = self._globals.get(name)
        statements = file.binding(name)
        if statements and name in self._globals and _is_plain(value):
            file.keep_value(statements[0], name, value)
            return
        for statement in statements:
            is_ours = unwrapped(value) is not value
            for used in file.keep(statement, without_decorators=is_ours):
                self._settle(used, file)
        if not statements and name in self._globals:
            self._settle_value(name, unwrapped(value))

    def _settle_value(self, name: str, value: Any) -> None:
        """Have a name mean what it stands for, where its file does not say."""
        if isinstance(value, ModuleType):
            self._added.append(f"import {value.__name__} as {name}")
        elif isinstance(value, FunctionType) and value.__globals__ is self._globals:
            check_function(value)
            file = self._file_of(value)
            for used in file.keep_function(value):
                self._settle(used, file)
        elif self._is_importable(value):
            self._added.append(f"from {value.__module__} import {value.__name__} as {name}")
        elif _is_plain(value):
            self._added.append(f"{name} = {value!r}")
        else:
            raise NotSendable(
                f"{self._function.__qualname__} uses {name}, which can't be sent: it is of type "
                f"{type(value).__name__}, and its file does not say how it is made",
                "pass it as an argument, or make it within the function",
            )

    def _is_importable(self, value: Any) -> bool:
        """Whether a value is a function or class of another module, under its own name."""
        home = sys.modules.get(getattr(value, "__module__", None) or "")
        if home is None or vars(home) is self._globals:
            return False
        return getattr(home, getattr(value, "__name__", ""), None) is value


class _File:
    """The text of a file, and which of its lines are kept."""

    def __init__(self, function: FunctionType) -> None:
        self._name = function.__code__.co_filename
        lines = linecache.getlines(self._name, function.__globals__)
        if not lines:
            raise NotSendable(
                f"the source of {function.__qualname__} is not at hand ({self._name})",
                "put the function into a file: what is typed at a prompt may have no source",
            )
        # `ast` ends a line where Python does, and nowhere else.
        self._lines = "".join(lines).split("\n")
        try:
            self._tree = ast.parse("".join(lines))
        except SyntaxError as error:
            raise self._changed(function) from error
        self._kept: dict[int, str] = {}
        self._values: dict[int, list[str]] = {}
        self._future = [
            statement
            for statement in self._tree.body
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        ]
        for statement in self._future:
            self._keep_lines(statement.lineno, statement)

    def text(self) -> str:
        """Return what is kept at its place; a statement's own lines where it is kept whole."""
        kept = {line: "; ".join(values) for line, values in self._values.items()}
        kept.update(self._kept)
        return "\n".join(kept.get(line, "") for line in range(1, max(kept, default=0) + 1))

    def keep_function(self, function: FunctionType) -> set[str]:
        """Keep a function without decorators; returns the names that it uses."""
        definition = self._definition(function)
        if len(definition.decorator_list) > 1:
            raise NotSendable(
                f"{function.__qualname__} has other decorators",
                "sway.function has to be the only one",
            )
        if definition.col_offset:
            # Its own indentation stays, as strings that span lines must not change.
            self._kept[definition.lineno - 1] = "if True:"
        return self.keep(definition, without_decorators=True)

    def keep(self, statement: ast.stmt, *, without_decorators: bool = False) -> set[str]:
        """Keep a statement; returns the names that it uses."""
        if isinstance(statement, ast.ImportFrom) and statement.level:
            raise NotSendable(
                f"line {statement.lineno} of {self._name} imports from its own package",
                "send a folder: sway.run(FOLDER)",
            )
        first = statement.lineno
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if without_decorators:
                statement.decorator_list = []
            first = _first_line(statement)
        self._keep_lines(first, statement)
        module = ast.Module([*self._future, statement], type_ignores=[])
        return set(_globals_used(compile(module, self._name, "exec", dont_inherit=True)))

    def keep_value(self, statement: ast.stmt, name: str, value: object) -> None:
        """Keep a name's value in the place of the statement that binds it."""
        self._values.setdefault(statement.lineno, []).append(f"{name} = {value!r}")

    def binding(self, name: str) -> list[ast.stmt]:
        """List the top-level statements that bind a name."""
        return [statement for statement in self._tree.body if name in _bound(statement)]

    def _definition(self, function: FunctionType) -> _Definition:
        for node in ast.walk(self._tree):
            if (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and node.name == function.__name__
                and _first_line(node) == function.__code__.co_firstlineno
            ):
                return node
        raise self._changed(function)

    def _changed(self, function: FunctionType) -> NotSendable:
        return NotSendable(
            f"{self._name} has changed since {function.__qualname__} was loaded from it",
            "load it again",
        )

    def _keep_lines(self, first: int, statement: ast.stmt) -> None:
        for number in range(first, (statement.end_lineno or first) + 1):
            self._kept[number] = self._lines[number - 1]


def _first_line(node: _Definition | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _globals_used(code: CodeType) -> Iterator[str]:
    """Names that code looks up around itself, those of Python itself left out."""
    for instruction in dis.get_instructions(code):
        if re.fullmatch(r"LOAD_(NAME|GLOBAL|FROM_DICT_OR_GLOBALS)", instruction.opname):
            name = str(instruction.argval)
            if not hasattr(builtins, name) and not re.fullmatch("__.*__", name):
                yield name
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_used(constant)


def _is_plain(value: Any) -> bool:
    """Whether a value is what its text says."""
    if type(value) in (list, tuple, set):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str, bytes)


def _module_name(filename: str) -> str:
    """Name the module after its file, unless it would stand before one of Python's own."""
    stem = PurePath(filename).stem
    is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", stem) and stem != "sway_function"
    own = getattr(sys, "stdlib_module_names", ())
    return stem if is_name and stem not in own else "main"
