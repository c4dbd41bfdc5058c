"""A plot for a terminal."""

import plotext as plt

plt.plot(plt.sin(periods=2))
plt.title("Sine Wave")
plt.plotsize(80, 20)
plt.clear_color()
plt.show()
