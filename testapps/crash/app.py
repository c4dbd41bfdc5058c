"""Crashes: that is no success, and no fault of its limits."""

import ctypes

print("reading from address 0", flush=True)
ctypes.string_at(0)
