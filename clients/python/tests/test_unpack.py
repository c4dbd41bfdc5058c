from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import sway
from sway._unpack import unpack


def archive(*entries: tuple[str, bytes, str]) -> io.BytesIO:
    """Make an archive of entries as they are, which no honest tool makes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = kind, 0o7777, 1_000_000_000
            if kind == tarfile.REGTYPE:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content.encode()))
            else:
                entry.linkname = content
                tar.addfile(entry)
    packed.seek(0)
    return packed


FILE, FOLDER, LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE


def test_files_folders_and_links_come_as_they_were(tmp_path: Path) -> None:
    packed = archive(
        ("a", FOLDER, ""),
        ("a/b", FOLDER, ""),
        ("a/b/up", LINK, "../../text"),
        ("a/b/file", FILE, "deep"),
        ("text", FILE, "text"),
    )
    made = unpack(packed, tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in made] == ["a/b/file", "a/b/up", "text"]
    assert (tmp_path / "a/b/up").read_text() == "text"
    status = (tmp_path / "text").stat()
    assert (status.st_mode & 0o7022, status.st_mtime) == (0, 1_000_000_000)


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", FILE, "")],
        [("/out", FILE, "")],
        [(".", FOLDER, "")],
        [("a/../../out", FILE, "")],
        [("nowhere/file", FILE, "")],
        [("link", LINK, "/etc"), ("link/file", FILE, "")],
        [("link", LINK, "."), ("link/file", FILE, "")],
        [("link", LINK, "..")],
        [("link", LINK, "a/../..")],
        [("a", FOLDER, ""), ("a/link", LINK, "../..")],
        [("text", FILE, ""), ("hard", tarfile.LNKTYPE, "text")],
        [("pipe", tarfile.FIFOTYPE, "")],
        [("device", tarfile.CHRTYPE, "")],
    ],
)
def test_what_could_reach_out_of_the_folder_is_refused(
    tmp_path: Path, entries: list[tuple[str, bytes, str]]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(sway.ProtocolError, match="none that a worker sends"):
        unpack(archive(*entries), folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        unpack(archive(("text", FILE, "1"), ("text", FILE, "2")), tmp_path)
    assert (tmp_path / "text").read_text() == "1"


def test_an_archive_that_breaks_off_is_told(tmp_path: Path) -> None:
    whole = archive(("text", FILE, "x" * 4000)).getvalue()
    with pytest.raises(sway.ProtocolError, match="no whole archive"):
        unpack(io.BytesIO(whole[:1500]), tmp_path)
