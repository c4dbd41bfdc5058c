"""Sums with numpy."""

import numpy as np

numbers = np.array([1, 2, 3, 4, 5])

print("hello world")
print(f"Sum: {numbers.sum()}")
print(f"Mean: {numbers.mean()}")
