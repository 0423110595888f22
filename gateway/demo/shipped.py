"""Where the shipped routes.yaml and policies are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import gateway


def shipped_folder() -> Path:
    """The folder that holds routes.yaml and policies/."""
    package = Path(gateway.__file__).parent
    inside = package / "demo" / "shipped"
    return inside if inside.is_dir() else package.parent
