"""Sums with numpy, then a forward pass through two layers of weights."""

import numpy as np

numbers = np.array([1, 2, 3, 4, 5])

print("hello world")
print(f"Sum: {numbers.sum()}")
print(f"Mean: {numbers.mean()}")

first = np.array([-3.0, -6.0, -6.0, -6.0, -12.0])
second = 0.5

hidden = numbers @ first
print(hidden)
# The rectifier lets nothing negative through.
print(max(hidden, 0.0) * second)
