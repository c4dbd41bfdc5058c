from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

import sway
from sway._program import CONTENT_BYTES_MAX, command, read_program
from sway._project import image_of
from sway._request import JobOptions, job_request


def folder(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    return root


def paths(root: Path) -> list[str]:
    return [file["path"] for file in read_program(root)["files"]]


def test_a_script_goes_by_its_own_name(tmp_path: Path) -> None:
    path = folder(tmp_path, "app.py") / "app.py"
    file = {"path": "app.py", "content": base64.b64encode(b"app.py").decode(), "executable": False}
    assert read_program(path) == {"kind": "script", "file": file}
    path.chmod(0o755)
    assert read_program(str(path))["file"]["executable"]
    with pytest.raises(sway.NotSendable, match="is a file"):
        read_program(path, "x")
    with pytest.raises(sway.NotSendable, match=r"no .*nowhere"):
        read_program(tmp_path / "nowhere")
    with pytest.raises(sway.NotSendable, match="neither a file nor a folder"):
        read_program("/dev/null")


def test_a_folder_goes_without_caches_and_version_control(tmp_path: Path) -> None:
    folder(tmp_path, "main.py", "lib/a.py", "lib/__pycache__/a.pyc", ".git/HEAD", ".env")
    folder(tmp_path, "env/pyvenv.cfg", "env/bin/python", "b.pyc")
    assert paths(tmp_path) == [".env", "lib/a.py", "main.py"]


def test_a_folder_starts_by_main_py_else_run_sh_else_what_is_named(tmp_path: Path) -> None:
    both = folder(tmp_path / "both", "main.py", "run.sh", "x/other.py")
    assert read_program(both)["entry"] == "main.py"
    assert read_program(both, "./x/other.py")["entry"] == "x/other.py"
    assert read_program(folder(tmp_path / "shell", "run.sh"))["entry"] == "run.sh"
    with pytest.raises(sway.NotSendable, match=r"'nope.py' is not a file"):
        read_program(both, "nope.py")
    with pytest.raises(sway.NotSendable, match=r"neither main.py nor run.sh"):
        read_program(folder(tmp_path / "none", "app.py"))


def test_links_stay_in_the_folder(tmp_path: Path) -> None:
    root = folder(tmp_path / "root", "main.py", "real.txt")
    (root / "link.txt").symlink_to("real.txt")
    assert paths(root) == ["link.txt", "main.py", "real.txt"]
    (root / "out.txt").symlink_to("/etc/passwd")
    with pytest.raises(sway.NotSendable, match=r"out.txt is a link that leads out"):
        read_program(root)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    root = folder(tmp_path, "main.py")
    (root / "again").symlink_to(".")
    with pytest.raises(sway.NotSendable, match="again is a link to a folder that holds it"):
        read_program(root)


def test_what_does_not_fit_is_told_before_it_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path, "main.py")
    with (root / "large.bin").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(sway.NotSendable, match=r"large.bin \(1 TiB\)"):
        read_program(root)
    assert CONTENT_BYTES_MAX < 64 << 20


def test_the_image_is_the_one_of_the_nearest_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project = folder(
        tmp_path / "My Project", "Dockerfile", "src/app.py", "src/requirements.txt", "lib/app.py"
    )
    assert image_of(project / "lib/app.py") == "my-project"
    assert image_of(project) == "my-project"
    assert image_of(project / "src/app.py") == "src"
    state = folder(tmp_path, "state/sway/projects.json") / "state/sway/projects.json"
    state.write_text('{{"projects": {{"{}": "scipy:1.0"}}}}'.format((project / "lib").resolve()))
    assert image_of(project / "lib/app.py") == "scipy:1.0"
    assert image_of(folder(tmp_path / "alone", "app.py") / "app.py") is None


def test_a_job_asks_only_for_what_was_given() -> None:
    assert job_request(command([]), {}, detach=True) == {
        "program": {"kind": "command", "argv": []},
        "args": [],
        "env": {},
        "limits": {},
        "network": "none",
        "detach": True,
        "fail_on_output_limit": False,
        "labels": {},
    }


def test_a_job_asks_for_all_that_was_given() -> None:
    options: JobOptions = {
        "image": "scipy",
        "env": {"SEED": "1"},
        "timeout": 60,
        "memory": "512M",
        "cpus": 1,
        "pids": 128,
        "tmp": "1M",
        "output_limit": 10,
        "network": "isolated",
        "datasets": [sway.Dataset("ada/sales"), sway.Dataset("t", "t.csv", "file")],
        "output": sway.Output(size="1M", files=3),
        "labels": {"why": "test"},
    }
    request = job_request(command(["true"]), options, args=["--n", 3], detach=False)
    assert request["image"] == "scipy"
    assert request["args"] == ["--n", "3"]
    assert request["limits"] == {
        "timeout_ms": 60_000,
        "memory_bytes": 512 << 20,
        "cpus_milli": 1000,
        "pids": 128,
        "output_bytes": 10,
        "tmp_bytes": 1 << 20,
    }
    assert request["datasets"] == [
        {"dataset": "ada/sales", "kind": "folder"},
        {"dataset": "t", "name": "t.csv", "kind": "file"},
    ]
    assert request["output"] == {"bytes": 1 << 20, "files": 3}
    assert job_request(command([]), {"output": True}, detach=True)["output"] == {}


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TypeError, match="no option memroy"):
        job_request(command([]), {"memroy": 1}, detach=True)  # type: ignore[typeddict-unknown-key]
    with pytest.raises(sway.NotSendable, match="one text"):
        job_request(command([]), {}, args="--fast", detach=True)
    with pytest.raises(sway.NotSendable, match="one text"):
        command("ls -l")
    with pytest.raises(sway.NotSendable, match=r"env\['KEY'\]") as caught:
        job_request(command([]), {"env": {"KEY": 53}}, detach=True)  # type: ignore[dict-item]
    assert "53" not in str(caught.value)
    with pytest.raises(sway.NotSendable, match="one of program, code and command"):
        sway.submit("app.py", code="1")
