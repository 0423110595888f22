"""What `gateway policy test` shows on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.policy import _show_tree
from gateway.pdp.cases import run_cases


def test_the_tree_shows_cases_checks_and_the_deciding_policy(
    folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    text = '[[case]]\nwhy = "alice reads"\nsubject = ["alice", "bob"]\ncheck = "read system:x"\nallow = true\n'
    path = folder('permit(principal == Identity::"alice", action, resource);', c__cases__toml=text)
    _show_tree(Path("access"), run_cases(path))
    assert capsys.readouterr().out.splitlines() == [
        "access",
        "└── c.cases.toml",
        "    └── ✗ alice reads",
        "        ├── ✓ alice read system:x  allow (p.cedar:1:1)",
        "        └── ✗ bob read system:x  deny (no policy permits it)",
    ]
