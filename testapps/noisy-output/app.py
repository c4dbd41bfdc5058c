"""Writes 30 MiB, three times what a job's output may hold, and ends well."""

import sys

LINE = "a line of sixty-four bytes, the newline included, over and over\n"
assert len(LINE) == 64

for _ in range(30 * 16):
    sys.stdout.write(LINE * 1024)
sys.stderr.write("wrote 31457280 bytes\n")
