"""Writes 20,000 files, each with a content of its own."""

import sys
from pathlib import Path

root = Path(sys.argv[1])
for directory in range(100):
    folder = root / f"{directory:02}"
    folder.mkdir(parents=True)
    for file in range(200):
        number = directory * 200 + file
        (folder / f"{number:05}").write_text(f"file {number}\n" * (1 + number % 32))
