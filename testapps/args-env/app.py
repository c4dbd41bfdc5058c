"""Shows its arguments and its environment."""

import os
import sys

for argument in sys.argv[1:]:
    print(repr(argument))
print("GREETING", repr(os.environ.get("GREETING")))
print("EMPTY", repr(os.environ.get("EMPTY")))
print("SWAY_TOKEN", repr(os.environ.get("SWAY_TOKEN")))
print("HOME", "set" if os.environ.get("HOME") else "missing")
