"""What a job left in ``/output``, unpacked so that nothing in it reaches out of its folder.

The archive is a stranger's work. Every entry is made new, below folders that were made here, so
nothing is written over and nothing through a link; links come last, and only such as stay inside;
permissions are at most everybody's to read and run.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from ._errors import ProtocolError


def unpack(archive: IO[bytes], folder: Path) -> list[Path]:
    """Unpack a tar archive into an empty folder; lists its files and links, sorted.

    Raises:
        ProtocolError: An entry is none that a worker sends. What came before it is there.
    """
    made = []
    folders = {PurePosixPath()}
    links = []
    try:
        with tarfile.open(fileobj=archive) as entries:
            for entry in entries:
                inside = PurePosixPath(entry.name)
                if inside.parent not in folders or not _is_plain(inside):
                    raise _foreign(entry)
                path = folder / inside
                if entry.isdir():
                    path.mkdir(0o755)
                    folders.add(inside)
                elif entry.isreg():
                    _write(entries, entry, path)
                    made.append(path)
                elif entry.issym() and _stays_inside(len(inside.parts) - 1, entry.linkname):
                    links.append((path, entry.linkname))
                else:
                    raise _foreign(entry)
    except tarfile.TarError as error:
        raise ProtocolError(f"the job's output is no whole archive: {error}") from error
    for path, target in links:
        path.symlink_to(target)
        made.append(path)
    return sorted(made)


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    content = entries.extractfile(entry)
    assert content is not None, "a regular file has content"
    mode = 0o600 | entry.mode & 0o155
    new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with content, os.fdopen(new, "wb") as file:
        shutil.copyfileobj(content, file)
    os.utime(path, (entry.mtime, entry.mtime))


def _is_plain(inside: PurePosixPath) -> bool:
    parts = inside.parts
    return bool(parts) and not inside.is_absolute() and ".." not in parts


def _stays_inside(depth: int, target: str) -> bool:
    """Whether a link so many folders deep goes up no further than them, and only at first."""
    parts = PurePosixPath(target).parts
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    is_relative = bool(parts) and not target.startswith("/")
    return is_relative and up <= depth and ".." not in parts[up:]


def _foreign(entry: tarfile.TarInfo) -> ProtocolError:
    return ProtocolError(f"{entry.name!r} of the job's output is none that a worker sends")
