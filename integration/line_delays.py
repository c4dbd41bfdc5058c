"""Reads the output of testapps/streaming as it comes, and compares each line's own time with now.

    line_delays.py [--events] COUNT SECONDS

With --events the input is the worker's stream of server-sent events. Fails unless COUNT lines
come, each at most SECONDS after it was written, or after this program's start where it was written
before that.
"""

import base64
import json
import sys
import time


def pieces(events):
    """The job's bytes as they arrive, each with the time of its arrival."""
    while line := sys.stdin.buffer.readline():
        now = time.time()
        if not events:
            yield line, now
        elif line.startswith(b"data:"):
            event = json.loads(line[5:])
            if event.get("event") == "output" and event["stream"] == "stdout":
                yield base64.b64decode(event["data"]), now


def main():
    arguments = sys.argv[1:]
    events = arguments[0] == "--events"
    count, limit = int(arguments[-2]), float(arguments[-1])
    delays = []
    text = b""
    started = time.time()
    for piece, now in pieces(events):
        # A piece is what was there to read, and not always a line.
        *lines, text = (text + piece).split(b"\n")
        delays += [now - max(started, float(line.split()[2])) for line in lines]
    print("delays in ms:", *(f"{delay * 1000:.0f}" for delay in delays))
    if len(delays) != count or max(delays) > limit:
        sys.exit(f"{len(delays)} lines, the slowest after {max(delays, default=0):.3f} s")


main()
