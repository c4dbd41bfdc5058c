"""Will not end, and ignores being asked to; so does its child."""

import os
import signal
import time

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)

os.fork()
# One write, so that the lines of two processes stay lines.
os.write(1, b"still here\n")
while True:
    time.sleep(0.1)
