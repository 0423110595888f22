"""`gateway validate`: every mistake of a configuration at once, and what happens when IAM is down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.configuration import DEFAULT_FILE
from gateway.cli.output import Format, note, say, say_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def validate(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")] = DEFAULT_FILE,
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Check a configuration and show its failure matrix."""
        from gateway.config import ConfigurationError, load  # noqa: PLC0415 - heavy
        from gateway.config.matrix import failure_matrix  # noqa: PLC0415

        try:
            configuration = load(file, os.environ)
        except ConfigurationError as error:
            if output is Format.JSON:
                say_json({"valid": False, "problems": [problem.as_json() for problem in error.problems]})
            else:
                note(str(error))
            raise typer.Exit(1) from None
        matrix = failure_matrix(configuration)
        if output is Format.JSON:
            say_json({"valid": True, "warnings": list(configuration.warnings), **matrix.as_json()})
            return
        for warning in configuration.warnings:
            note(warning)
        say(f"{file}: {len(configuration.routes)} routes, {len(configuration.upstreams)} upstreams: valid")
        say(matrix.as_text())
