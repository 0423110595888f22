"""`gateway replay` and `gateway report`: what can be read from a decision log."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import EXIT_BAD, EXIT_CANNOT, EXIT_UNREADABLE, Format, fail, note, say, say_json, table

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from gateway.evidence.replay import LoggedQuestions, Replayed
    from gateway.iam.client import DecisionPoint
    from gateway.model.settings import Configuration


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def replay(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A decision log.")],
        against: Annotated[
            Path, typer.Option(metavar="routes.yaml|policies/access", help="Whose IAM is asked, or which policies.")
        ],
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Ask the questions of a decision log again.

        Asks each distinct question once, and shows which decisions would differ.

        Exit code: 0 no difference, 1 differences, 2 a file can't be read, 3 something could not be asked.
        """
        from gateway.evidence.outages import DecisionLines, UnreadableError
        from gateway.evidence.replay import LoggedQuestions  # heavy

        point, claims = _point(against)
        questions, lines = LoggedQuestions(), DecisionLines(file)
        try:
            questions.gather(lines)
        except UnreadableError as error:
            fail(str(error), EXIT_UNREADABLE)
        if lines.broken:
            note(f"{lines.broken:,} broken lines were passed over")
        if claims and questions.bare:
            note(f"the log does not hold these claims, so questions are asked without them: {', '.join(claims)}")
        result = asyncio.run(_replayed(questions, point))
        (_say_document if output is Format.JSON else _say_table)(questions, result)
        questions_left = _say_what_is_left(questions, result)
        questions.close()
        if result.changed or questions_left:
            raise typer.Exit(EXIT_BAD if result.changed else EXIT_CANNOT)


async def _replayed(questions: LoggedQuestions, point: AbstractAsyncContextManager[DecisionPoint]) -> Replayed:
    from gateway.evidence.replay import replay  # heavy

    async with point as ready:
        return await replay(questions, ready)


def _point(against: Path) -> tuple[AbstractAsyncContextManager[DecisionPoint], list[str]]:
    """Who is to be asked, and which claims it is told of subjects; exit code 2 if that can't be read."""
    from gateway.cli.asking import decision_point, embedded  # heavy
    from gateway.config import ConfigurationError, load
    from gateway.pdp.problem import PolicyError

    try:
        if against.is_dir():
            return nullcontext(embedded(against)), []
        configuration = load(against, os.environ)
        _check_policies(configuration)
    except (ConfigurationError, PolicyError) as error:
        fail(str(error), EXIT_UNREADABLE)
    return decision_point(configuration), _claims(configuration)


def _check_policies(configuration: Configuration) -> None:
    """Raises PolicyError."""
    from gateway.cli.asking import embedded  # heavy
    from gateway.model.settings import IamApi

    if configuration.iam.api is IamApi.EMBEDDED and configuration.access_policies is not None:
        embedded(configuration.access_policies)


def _claims(configuration: Configuration) -> list[str]:
    """What IAM is told of subjects beside their id."""
    from gateway.model.settings import IntrospectionIdentity, JwtIdentity  # heavy

    identity = configuration.identity
    rules = [issuer.rules for issuer in identity.issuers] if isinstance(identity, JwtIdentity) else []
    rules += [identity.rules] if isinstance(identity, IntrospectionIdentity) else []
    return sorted({claim for rule in rules for claim in rule.claims})


def _say_what_is_left(questions: LoggedQuestions, result: Replayed) -> bool:
    """What could not be asked, on stderr. Whether there was anything."""
    note(f"{result.asked:,} questions asked, {result.changed:,} answers differ")
    if questions.hidden:
        note(f"{questions.hidden:,} questions could not be asked: their subject or a value is hashed or left out")
    if result.unanswered:
        why = f" ({result.reason})" if result.reason else ""
        note(f"{result.unanswered:,} questions were not answered{why}")
    return bool(questions.hidden or result.unanswered)


def _say_document(questions: LoggedQuestions, result: Replayed) -> None:
    """One at a time: there can be as many changes as questions."""
    say(f'{{"asked": {result.asked}, "changed": [')
    for number, change in enumerate(questions.changes(), start=1):
        document = {**change.document, "was": change.was, "now": change.now}
        say(f"  {json.dumps(document, ensure_ascii=False)}{',' if number < result.changed else ''}")
    say("]}")


def _say_table(questions: LoggedQuestions, result: Replayed) -> None:
    if not result.changed:
        return
    rows = [
        (_named(document["subject"]), _named(document["action"]), _named(document["resource"]), _word(was), _word(now))
        for document, was, now in questions.changes()
    ]
    table(("subject", "action", "resource", "was", "now"), rows)


def _named(value: Any) -> str:
    """`alice`, `read`, `system:orders`."""
    if not isinstance(value, dict):
        return str(value)
    if "name" in value:
        return str(value["name"])
    return str(value["id"]) if value.get("type") == "identity" else f"{value.get('type')}:{value.get('id')}"


def _word(decision: bool) -> str:  # the one thing that is shown
    return "permit" if decision else "deny"


# `gateway report`: what outages cost, from a decision log.


def register_report(app: typer.Typer) -> None:
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
        from gateway.evidence.outages import (
            DecisionLines,
            Outages,  # only this command
            UnreadableError,
        )

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
