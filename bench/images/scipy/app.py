"""Linear algebra with scipy: what a first `sway run` usually looks like."""

import numpy as np
from scipy import linalg

print("scipy test")

random = np.random.default_rng(1)
a = random.standard_normal((100, 100))
b = random.standard_normal((100, 100))
print(f"matmul: {(a @ b).shape}")

u, s, vh = linalg.svd(a)
print(f"svd: u={u.shape}, s={s.shape}")
