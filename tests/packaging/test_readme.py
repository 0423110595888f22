"""The README of the package stands alone: no link of it leads into a repository that is not there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_packaged_readme_has_no_link_that_only_the_repository_has():
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text()
    packaged = module.standing_alone(readme)
    assert len(re.findall(r"\]\((?!https?:)", readme)) > 10
    assert re.findall(r"\]\((?!https?:)[^)]*\)", packaged) == []
    assert "how it works, glossary, questions" in packaged
