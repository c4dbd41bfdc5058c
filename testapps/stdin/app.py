"""Reads its standard input to the end."""

import hashlib
import sys

data = sys.stdin.buffer.read()
print(len(data), "bytes", hashlib.sha1(data).hexdigest())
