"""`gateway validate`, `gateway diff`, `gateway schema`: what a configuration is, says and changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Protocol

import typer

from gateway.cli.output import DEFAULT_FILE, EXIT_BAD, EXIT_UNREADABLE, Format, fail, note, say, say_json

if TYPE_CHECKING:
    from gateway.config.changes import Change
    from gateway.model.settings import Configuration


# With `--strict` a warning refuses it too. `--output github` writes workflow commands, which GitHub shows at the
# lines.


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


# `gateway diff`: what two configurations decide differently, weaker first.


def register_diff(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def diff(
        old: Annotated[Path, typer.Argument(metavar="OLD", help="The configuration before.")],
        new: Annotated[Path, typer.Argument(metavar="NEW", help="The configuration after.")],
        *,
        fail_on_weaker: Annotated[
            bool, typer.Option("--fail-on-weaker", help="Exit with 1 if anything is weaker, or may be.")
        ] = False,
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Compare what two configurations decide.

        Shows the differences, weaker ones first.

        Exit code: 0; with --fail-on-weaker 1 if anything is weaker, or if policies may permit more, which is not
        evaluated here; 2 if a file can't be read.
        """
        from gateway.config import differences  # heavy

        changes = differences(_loaded(old), _loaded(new))
        weaker = [change for change in changes if change.weaker]
        unjudged = [change for change in changes if change.unjudged]
        if output is Format.JSON:
            _say_document(changes)
        else:
            _say_lines(changes)
            note(f"{len(weaker)} weaker, {len(changes) - len(weaker)} other" if changes else "no difference")
        if unjudged:
            note(
                f"{len(unjudged)} changes of policies may permit more, which is not evaluated here: "
                "`gateway policy test` and `gateway replay` show what is decided otherwise"
            )
        if fail_on_weaker and (weaker or unjudged):
            raise typer.Exit(EXIT_BAD)  # in doubt it fails: a forbid that is gone must not pass unseen


def _loaded(file: Path) -> Configuration:
    """The configuration, or its mistakes on stderr and exit code 2."""
    from gateway.config import ConfigurationError, load  # heavy

    try:
        return load(file, os.environ)
    except ConfigurationError as error:
        fail(str(error), EXIT_UNREADABLE)


def _say_document(changes: list[Change]) -> None:
    shown: dict[str, list[dict[str, str]]] = {"weaker": [], "other": []}
    for change in changes:
        shown["weaker" if change.weaker else "other"].append({"where": change.where, "change": change.text})
    say_json(shown)


def _say_lines(changes: list[Change]) -> None:
    for change in changes:
        say(f"{'weaker' if change.weaker else 'maybe' if change.unjudged else 'other':6}  {change}")


# `gateway schema`: the JSON Schema of routes.yaml, for editors.


def register_schema(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def schema() -> None:
        """Print the JSON Schema of routes.yaml."""
        from gateway.config.reference import json_schema  # heavy

        say_json(json_schema())
