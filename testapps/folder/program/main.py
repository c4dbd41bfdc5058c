"""A program of several files, with data beside them."""

import json
from pathlib import Path

from greetings import greet

names = json.loads((Path(__file__).parent / "data" / "names.json").read_text())
for name in names:
    print(greet(name))
