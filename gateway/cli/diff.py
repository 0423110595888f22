"""`gateway diff`: what two configurations decide differently, weaker first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import EXIT_BAD, EXIT_CANNOT, EXIT_UNREADABLE, Format, fail, note, say, say_json

if TYPE_CHECKING:
    from gateway.config.changes import Change
    from gateway.model.settings import Configuration


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def diff(
        old: Annotated[Path, typer.Argument(metavar="OLD", help="The configuration before.")],
        new: Annotated[Path, typer.Argument(metavar="NEW", help="The configuration after.")],
        *,
        fail_on_weaker: Annotated[
            bool, typer.Option("--fail-on-weaker", help="Exit with 1 if anything is weaker.")
        ] = False,
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Compare what two configurations decide.

        Shows the differences, weaker ones first.

        Exit code: 0; with --fail-on-weaker 1 if anything is weaker, 3 if only policies may permit more, which is not
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
            raise typer.Exit(EXIT_BAD if weaker else EXIT_CANNOT)


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
