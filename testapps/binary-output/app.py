"""Writes every byte there is, also those that are no text."""

import sys

sys.stdout.buffer.write(bytes(range(256)) * 16 + b"\xff\xfe no newline at the end")
