"""Which image belongs to a script: what `sway export` made of its project."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ._config import state_folder

_DOCKERFILES = ("Dockerfile", "DockerFile", "Containerfile")
_RECIPES = ("pyproject.toml", "requirements.txt")


def image_of(program: Path) -> str | None:
    """Name the image that was exported from the project of a script or folder, as `sway run` does.

    It is the image of the nearest folder above that was exported, or that has a Dockerfile and so
    would be exported under its own name; of the program's own folder a pyproject.toml or
    requirements.txt says the same.
    """
    known = _exported()
    program = program.resolve()
    own = program if program.is_dir() else program.parent
    for folder in (own, *own.parents):
        if str(folder) in known:
            return known[str(folder)]
        recipes = _DOCKERFILES + (_RECIPES if folder == own else ())
        if any((folder / name).is_file() for name in recipes):
            return re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or None
    return None


def _exported() -> dict[str, str]:
    """Folders and the images that were made of them, on this machine."""
    folder = state_folder()
    if folder is None:
        return {}
    try:
        projects = json.loads((folder / "sway/projects.json").read_bytes())["projects"]
        return {str(folder): str(image) for folder, image in projects.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Losing the list costs nothing but the names that were given by hand.
        return {}
