"""Wants more memory than it may have."""

print("allocating", flush=True)
blocks = []
while True:
    # Touched, not only reserved.
    blocks.append(bytearray(b"\xff" * (8 << 20)))
