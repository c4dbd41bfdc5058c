from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from conftest import Worker

README = Path(__file__).parent.parent / "README.md"


def test_the_examples_of_the_readme_do_what_they_say(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    done = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert done.failed == 0, capsys.readouterr().out
    assert done.attempted > 15
