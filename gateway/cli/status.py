"""`gateway status`: how a running gateway is, in a few lines or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gateway.cli.operator import DEFAULT_ADMIN, AdminToken, AdminUrl, ask
from gateway.cli.output import EXIT_CANNOT, Format, fail, say, say_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def status(
        admin: AdminUrl = DEFAULT_ADMIN,
        token: AdminToken = "",
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
    ) -> None:
        """Show how a running gateway is.

        Shows its configuration, what is broken, and open circuits.
        """
        document = ask("GET", admin, "/status", token)
        if output is Format.JSON:
            say_json(document)
            return
        try:
            lines = list(_lines(document))
        except (AttributeError, KeyError, TypeError):
            fail(f"cannot ask {admin}: what it answers is no status; is this the admin listener?", EXIT_CANNOT)
        for line in lines:
            say(line)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    config, iam = document["config"], document["iam"]
    state = "draining" if document["draining"] else "ready" if document["ready"] else "not ready"
    yield f"gateway {document['version']}: {state}, {_several(document['in_flight'], 'request')} in flight"
    routes, warnings = _several(len(document["routes"]), "route"), _several(len(config["warnings"]), "warning")
    yield f"configuration: {config['file']}, {routes}, {warnings}"
    for problem in config["reload_problems"]:
        yield f"refused since: {problem}"
    yield f"IAM: {iam['api']}, circuit {iam['state']}"
    for problem in document.get("problems", ()):  # the page shows the same
        yield f"{problem['severity']}: {problem['title']}. {problem['text']}"
    for name, breaker in document["breakers"].items():
        if breaker["state"] != "closed":
            forced = f", forced {breaker['forced']}" if breaker.get("forced") else ""
            yield f"circuit {name}: {breaker['state']}{forced}, {breaker['remaining_s']:.0f} s left"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
