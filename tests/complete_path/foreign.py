"""Foreign programs (scripts/install-foreign): where one is missing its test says so, under CI that is a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
MODULES = TOOLS / "node_modules"


def on_path(name: str) -> str:
    """A program of this machine."""
    found = shutil.which(name)
    return found or _missing(name)


def of_tools(name: str) -> str:
    """A program that scripts/build-foreign built."""
    file = TOOLS / "bin" / name
    return str(file) if file.is_file() else _missing(name, "build-foreign")


def folder_of_tools(name: str) -> str:
    """What scripts/peers unpacked."""
    folder = TOOLS / name
    return str(folder) if folder.is_dir() else _missing(name, "peers")


def of_npm(*parts: str) -> str:
    """A file of a package that scripts/install-foreign brought."""
    file = MODULES.joinpath(*parts)
    return str(file) if file.is_file() else _missing("/".join(parts))


def of_python(name: str, *parts: str) -> str:
    """A file of a Python package of the group `integration`."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return _missing(name)
    return str(Path(spec.origin).parent.joinpath(*parts))


def _missing(name: str, script: str = "install-foreign") -> str:
    message = f"{name} is not here: scripts/{script} gets it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
