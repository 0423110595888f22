"""The door to Cedar, which is an optional part of the installation: the extra `cedar`.

Rule: whoever reads policies calls `check_installed` first, so that one clear sentence is said before anything fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.pdp.problem import PolicyError, Problem

try:
    import cedarpy
except ModuleNotFoundError:  # said by `check_installed`, where policies are to be read
    cedarpy = None  # type: ignore[assignment]

__all__ = ["HOW_TO_INSTALL", "cedarpy", "check_installed", "installed"]

HOW_TO_INSTALL: Final = "Cedar is not installed. Install the extra iam-gateway[cedar], or: pip install cedarpy"


def installed() -> bool:
    """Whether policies can be read at all."""
    return cedarpy is not None


def check_installed(folder: Path) -> None:
    """Raises PolicyError for a folder of policies that nothing here can read."""
    if not installed():
        raise PolicyError([Problem(str(folder), 1, 1, "cedar-missing", f"these policies need Cedar. {HOW_TO_INSTALL}")])
