"""What is sent: a script, or a folder without what no job needs.

Everything travels in one request, so it has to fit; what does not is said before anything is
sent. Links are followed as long as they stay in the folder: a folder from somewhere else must not
send files that are not its own.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

from ._errors import NotSendable
from ._quantity import show_size

StrPath = Union[str, "os.PathLike[str]"]

_ENTRIES = ("main.py", "run.sh")
"""Files that start a folder, in the order in which they are looked for."""

_LEFT_OUT = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        ".jj",
        ".venv",
        ".tox",
        ".nox",
        ".idea",
        ".vscode",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        "__pycache__",
        ".DS_Store",
    ]
)
"""Caches, version control and virtual environments: no job needs them."""

CONTENT_BYTES_MAX = ((64 << 20) - (1 << 20)) // 4 * 3
"""What fits into a request of 64 MiB: base64 makes four of three, and a MiB is for the rest."""

_FILE_OVERHEAD_BYTES = 128


def script(source: str, name: str = "main.py") -> dict[str, Any]:
    """Make a program of source code."""
    return {"kind": "script", "file": file(name, source.encode())}


def command(words: Sequence[str]) -> dict[str, Any]:
    """Make a program of a command of the image; of no words, the image's own."""
    if isinstance(words, str):
        raise NotSendable(f"{words!r} is one text", "give a command as a list of words")
    return {"kind": "command", "argv": [str(word) for word in words]}


def file(path: str, content: bytes, *, executable: bool = False) -> dict[str, Any]:
    """Make a file that goes along."""
    encoded = base64.b64encode(content).decode()
    return {"path": path, "content": encoded, "executable": executable}


def read_program(path: StrPath, entry: str | None = None) -> dict[str, Any]:
    """Read a script or folder of this machine.

    Args:
        path: The script or folder.
        entry: The file of the folder to start; else main.py, else run.sh.

    Raises:
        NotSendable: It is not there, can't be read, leads out of the folder or does not fit.
    """
    path = Path(path)
    budget = _Budget(path)
    if not path.is_dir():
        if entry is not None:
            raise NotSendable(f"{path} is a file", "entry= is for folders")
        return {"kind": "script", "file": _read(path, path.name, budget)}
    files = [_read(found, inside, budget) for found, inside in _walk(path)]
    names = {file["path"] for file in files}
    if entry is None:
        entry = next((name for name in _ENTRIES if name in names), None)
        if entry is None:
            message = f"the folder {path} has neither main.py nor run.sh"
            raise NotSendable(message, "name the file to start by entry=")
    entry = entry[2:] if entry.startswith("./") else entry
    if entry not in names:
        raise NotSendable(f"{entry!r} is not a file in the folder {path}")
    return {"kind": "folder", "files": files, "entry": entry}


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Find the files of a folder that a job may need, with their paths inside, sorted."""
    root = folder.resolve()

    def below(at: Path, inside: str, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
        try:
            items = sorted(at.iterdir())
        except OSError as error:
            raise NotSendable(f"can't read {at}: {error.strerror}") from error
        for item in items:
            if item.name in _LEFT_OUT or item.name.endswith(".pyc"):
                continue
            real = item.resolve()
            if item.is_symlink() and root not in real.parents and real != root:
                raise NotSendable(f"{item} is a link that leads out of the folder")
            if not item.is_dir():
                yield item, inside + item.name
            elif real in above:
                raise NotSendable(f"{item} is a link to a folder that holds it")
            elif not (item / "pyvenv.cfg").exists():
                yield from below(item, f"{inside}{item.name}/", above | {real})

    return below(folder, "", frozenset({root}))


class _Budget:
    """What still fits into a request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = CONTENT_BYTES_MAX
        self._largest: tuple[int, Path] = (0, path)

    def spend(self, path: Path, size: int) -> None:
        self._largest = max(self._largest, (size, path))
        self._left -= size + _FILE_OVERHEAD_BYTES
        if self._left < 0:
            largest_bytes, largest = self._largest
            raise NotSendable(
                f"{self._path} is too large to be sent with a job: more than "
                f"{show_size(CONTENT_BYTES_MAX)}; the largest file is {largest} "
                f"({show_size(largest_bytes)})",
                "large data goes to the fileserver as a dataset: `sway run --data`",
            )


def _read(path: Path, name: str, budget: _Budget) -> dict[str, Any]:
    try:
        status = path.stat()
        # Reading a pipe or a device might never end.
        if not stat.S_ISREG(status.st_mode):
            raise NotSendable(f"{path} is neither a file nor a folder")
        budget.spend(path, status.st_size)
        content = path.read_bytes()
    except FileNotFoundError:
        hint = "source code itself goes as code="
        raise NotSendable(f"there is no {path} on this machine", hint) from None
    except OSError as error:
        raise NotSendable(f"can't read {path}: {error.strerror}") from error
    try:
        name.encode()
    except UnicodeEncodeError:
        raise NotSendable(f"the name of {path!r} is not valid UTF-8") from None
    return file(name, content, executable=bool(status.st_mode & 0o111))
