"""`gateway validate`: every mistake of a configuration at once, and what happens when IAM is down."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn, Protocol

import typer

from gateway.cli.configuration import DEFAULT_FILE
from gateway.cli.output import EXIT_BAD, Format, note, say, say_json


class _Problem(Protocol):
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def col(self) -> int: ...
    def as_json(self) -> dict[str, str | int]: ...


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def validate(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")] = DEFAULT_FILE,
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Check a configuration and show its failure matrix."""
        from gateway.config import ConfigurationError, load  # noqa: PLC0415 - heavy
        from gateway.config.cross import is_bulk  # noqa: PLC0415
        from gateway.config.matrix import failure_matrix  # noqa: PLC0415
        from gateway.pdp.check import access_problems  # noqa: PLC0415

        try:
            configuration = load(file, os.environ)
        except ConfigurationError as error:
            _refuse(error.problems, output)
        if mistakes := access_problems(configuration):
            _refuse(mistakes, output)
        matrix = failure_matrix(configuration)
        if output is Format.JSON:
            say_json({"valid": True, "warnings": list(configuration.warnings), **matrix.as_json()})
            return
        for warning in configuration.warnings:
            note(warning)
        counted = sum(not is_bulk(route) for route in configuration.routes)
        say(f"{file}: {_several(counted, 'route')}, {_several(len(configuration.upstreams), 'upstream')}: valid")
        say(matrix.as_text())


def _refuse(problems: Sequence[_Problem], output: Format) -> NoReturn:
    if output is Format.JSON:
        say_json({"valid": False, "problems": [problem.as_json() for problem in problems]})
    else:
        from gateway.config.rendering import render  # noqa: PLC0415 - heavy

        note(render(problems) if sys.stderr.isatty() else "\n".join(map(str, problems)))
    raise typer.Exit(EXIT_BAD)


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
