"""What a scientist's day touches: a table, a symbol, a plot and a model."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sympy
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

print("science test")

random = np.random.default_rng(1)
table = pd.DataFrame({"group": random.integers(0, 4, 1000), "value": random.normal(size=1000)})
print(f"groups: {len(table.groupby('group').value.mean())}")

x = sympy.symbols("x")
print(f"integral: {sympy.integrate(sympy.sin(x) ** 2, (x, 0, sympy.pi))}")

figure, axes = plt.subplots()
axes.plot(table.value.cumsum())
axes.set_title("walk")
picture = io.BytesIO()
figure.savefig(picture, format="png")
print(f"plot: {picture.getvalue()[1:4].decode()}")

inputs = np.arange(100.0).reshape(-1, 1)
line = LinearRegression().fit(inputs, 3 * inputs.ravel() + 1)
print(f"slope: {line.coef_[0]:.1f}")
forest = RandomForestClassifier(n_estimators=5, random_state=1)
forest.fit(inputs, inputs.ravel() > 50)
print(f"class: {forest.predict([[75.0]])[0]}")
