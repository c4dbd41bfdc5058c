"""A line every 0.2 s, each with the time at which it was written."""

import time

for number in range(15):
    print(f"line {number} {time.time():.6f}", flush=True)
    time.sleep(0.2)
