"""Ends with a code of its own."""

import sys

print("exiting with 7")
sys.exit(7)
