"""`gateway report`: what outages cost, from a decision log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import EXIT_UNREADABLE, Format, fail, note, say, say_json, table


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def report(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A decision log.")],
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Show what outages cost.

        Shows outages by cause and length, and what was refused or served degraded, by route.

        Exit code: 0; 2 if the file can't be read.
        """
        from gateway.evidence.outages import Outages  # only this command
        from gateway.evidence.reading import DecisionLines, UnreadableError

        outages, lines = Outages(), DecisionLines(file)
        try:
            outages.take(lines)
        except UnreadableError as error:
            fail(str(error), EXIT_UNREADABLE)
        if lines.broken:
            note(f"{lines.broken:,} broken lines were passed over")
        document = outages.document()
        if output is Format.JSON:
            say_json(document)
        else:
            _say(document)


def _say(document: dict[str, Any]) -> None:
    for outage in document["outages"]:
        say(
            f"{outage['from']}  {outage['cause']} for {outage['seconds']:,.1f} s: "
            f"{outage['refused']:,} refused, {outage['degraded']:,} served degraded"
        )
    if not document["outages"]:
        note(f"no outage in {document['lines']:,} decisions")
    else:
        _say_routes(document["routes"])
    for code, count in document["refused_for_other_reasons"].items():
        say(f"{count:,} refused by {code}, which is no outage of IAM")


def _say_routes(routes: dict[str, Any]) -> None:
    rows = [
        (route, f"{cost['refused']:,}", ", ".join(f"{count:,} {mode}" for mode, count in cost["degraded"].items()))
        for route, cost in routes.items()
    ]
    table(("route", "refused", "served degraded"), rows)
