"""`gateway validate`: every mistake of a configuration at once, and what happens when IAM is down.

With `--strict` a warning refuses it too. `--output github` writes workflow commands, which GitHub shows at the lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn, Protocol

import typer

from gateway.cli.configuration import DEFAULT_FILE
from gateway.cli.output import EXIT_BAD, note, say, say_json


class Output(StrEnum):
    """`--output`."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


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
        output: Annotated[Output, typer.Option(help="How to show it.")] = Output.TEXT,
        strict: Annotated[bool, typer.Option("--strict", help="Refuse warnings too.")] = False,  # Typer
    ) -> None:
        """Check a configuration.

        Shows all mistakes at once, and what each route answers while IAM is down.
        """
        from gateway.config import ConfigurationError, load  # heavy
        from gateway.config.matrix import failure_matrix
        from gateway.config.problems import Problem
        from gateway.config.route_checks import is_bulk
        from gateway.pdp.check import access_problems, access_warnings

        try:
            configuration = load(file, os.environ)
        except ConfigurationError as error:
            _refuse(error.problems, output)
        if mistakes := access_problems(configuration):
            _refuse(mistakes, output)
        warnings = [Problem.parse(line) for line in (*configuration.warnings, *access_warnings(configuration))]
        if strict and warnings:
            _refuse(warnings, output)
        matrix = failure_matrix(configuration)
        if output is Output.JSON:
            say_json({"valid": True, "warnings": [each.as_json() for each in warnings], **matrix.as_json()})
            return
        if output is Output.GITHUB:
            say("\n".join(map(_command, warnings)) or f"{file}: valid")
            return
        for warning in warnings:
            note(str(warning))
        counted = sum(not is_bulk(route) for route in configuration.routes)
        say(f"{file}: {_several(counted, 'route')}, {_several(len(configuration.upstreams), 'upstream')}: valid")
        say(matrix.as_text())


def _refuse(problems: Sequence[_Problem], output: Output) -> NoReturn:
    if output is Output.GITHUB:
        say("\n".join(map(_command, problems)))
    elif output is Output.JSON:
        say_json({"valid": False, "problems": [problem.as_json() for problem in problems]})
    else:
        from gateway.config.problems import render  # heavy

        note(render(problems) if sys.stderr.isatty() else "\n".join(map(str, problems)))
    raise typer.Exit(EXIT_BAD)


def _command(problem: _Problem) -> str:
    """A workflow command of GitHub: what stands in it is escaped as its runner reads it."""
    about = problem.as_json()
    place = f"file={_escaped(problem.file, ':,')},line={problem.line},col={problem.col},title={about['id']}"
    return f"::{about['severity']} {place}::{_escaped(str(about['message']))}"


def _escaped(text: str, more: str = "") -> str:
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
