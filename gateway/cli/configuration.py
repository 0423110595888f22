"""Loading `routes.yaml` for a command: every mistake on stderr, exit 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import fail, note

if TYPE_CHECKING:
    from gateway.model.settings import Configuration

ConfigFile = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration to use.")]
DEFAULT_FILE = Path("routes.yaml")


def load_or_exit(file: Path, *, warnings: bool = True) -> Configuration:
    """The configuration, or its mistakes on stderr and exit code 1."""
    from gateway.config import ConfigurationError, load  # heavy
    from gateway.pdp.check import access_problems, needs_access_policies

    try:
        configuration = load(file, os.environ)
    except ConfigurationError as error:
        fail(str(error))
    if needs_access_policies(configuration) and (mistakes := access_problems(configuration)):
        fail("\n".join(map(str, mistakes)))
    if warnings:
        for warning in configuration.warnings:
            note(warning)
    return configuration
