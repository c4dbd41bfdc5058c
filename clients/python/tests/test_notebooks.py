"""The notebooks, from the first cell to the last, in real kernels on a real worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import TOKENS, Worker

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
OWNER = "alice@example.org"
CELL_S = 240


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_outputs_are_kept_in_a_notebook(path: Path) -> None:
    cells = json.loads(path.read_bytes())["cells"]
    assert len(cells) > 5
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.fixture
def folder(queue_worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("nbclient", reason="runs where the notebooks do")
    monkeypatch.setenv("WORKER_URL", queue_worker.url)
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    return tmp_path


def executed(name: str, user: str, folder: Path) -> list[str]:
    """Execute a notebook as a user; gives what each of its code cells shows, as JSON."""
    path = folder / name / "notebook.ipynb"
    path.parent.mkdir()
    shutil.copy(NOTEBOOKS / f"{name}.ipynb", path)
    command = [sys.executable, "-m", "jupyter", "execute", f"--timeout={CELL_S}", "--inplace"]
    environ = {**os.environ, "SWAY_TOKEN": TOKENS[user]}
    done = subprocess.run([*command, str(path)], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    text = path.read_text()
    assert TOKENS[user] not in text
    cells = json.loads(text)["cells"]
    return [json.dumps(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]


def has_buttons(shown: str) -> bool:
    return "application/vnd.jupyter.widget-view+json" in shown and "text/html" in shown


def test_the_overview_runs(folder: Path) -> None:
    shown = executed("Overview", OWNER, folder)
    assert has_buttons(shown[0])
    assert has_buttons(shown[1])
    assert "completed 45" in shown[3]
    assert "rejected - Too broad" in shown[4]
    assert has_buttons(shown[5])
    assert "4.0" in shown[7]


def test_a_data_scientist_and_a_data_owner_work_together(
    queue_worker: Worker, folder: Path
) -> None:
    data = folder / "weather.csv"
    data.write_text("day,rain\n1,40\n2,2\n3,0\n")
    queue_worker.add_data("weather", data, OWNER)
    with ThreadPoolExecutor() as pool:
        scientist = pool.submit(executed, "DataScientist", "bob", folder)
        owner = pool.submit(executed, "DataOwner", OWNER, folder)
        mine, theirs = scientist.result(), owner.result()
    assert "Status: pending" in mine[1]
    assert has_buttons(mine[2])
    assert has_buttons(mine[3])
    assert "completed - Looks safe" in mine[4]
    assert "3,14.0" in mine[5]
    assert "rejected - Too broad" in mine[6]
    assert has_buttons(theirs[1])
    assert "analyze.py" in theirs[2]
    assert "completed" in theirs[6]
    assert "Analysis complete!" in theirs[6]
