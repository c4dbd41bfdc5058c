"""Writes a file of 256 MiB; block N is the output of SHAKE-128 for N."""

import sys
from hashlib import shake_128

with open(sys.argv[1], "wb") as file:
    for block in range(256):
        file.write(shake_128(str(block).encode()).digest(1 << 20))
