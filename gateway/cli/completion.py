"""`gateway completion`: shell completion for bash, zsh and fish."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer

from gateway.cli.output import say

_PROGRAM: Final = "gateway"
_VARIABLE: Final = "_GATEWAY_COMPLETE"


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
        """Print a shell completion script.

        Use it as: eval "$(gateway completion bash)".
        """
        from typer.completion import (  # type: ignore[attr-defined]
            get_completion_script,
        )

        say(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell.value))


def complete_if_asked() -> None:
    """A shell that completes calls the program with a variable set: let the answer be ready."""
    if _VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
