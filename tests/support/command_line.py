"""Typer's runner of commands, which makes the tree of commands once: that takes longer than most commands."""

from __future__ import annotations

import functools

from typer import main, testing
from typer.testing import CliRunner

__all__ = ["CliRunner"]

testing._get_command = functools.cache(main.get_command)
