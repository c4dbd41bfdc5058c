"""How something looks in Jupyter: widgets where they are installed, else HTML that does nothing.

Everything that others wrote is escaped, nothing holds a token, and the HTML has no scripts.
"""

from __future__ import annotations

import sys
from typing import Any

_VIEW = "application/vnd.jupyter.widget-view+json"


class Displayed:
    """Something with a `_repr_html_`, and perhaps a `_widget`."""

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def _widget(self) -> Any:
        """Make its widget; where ipywidgets is missing, that is an ImportError."""
        raise ImportError("no widget")

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, object]:
        """Tell IPython all forms. A page that can't show the first of them shows the next."""
        bundle: dict[str, object] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if _has_kernel():
            try:
                widget = self._widget()
            except ImportError:
                return bundle
            bundle[_VIEW] = widget._repr_mimebundle_()[_VIEW]
        return bundle


def _has_kernel() -> bool:
    """Whether a notebook is at the other end, so that buttons would reach this process."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
