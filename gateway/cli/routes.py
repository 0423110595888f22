"""`gateway routes`: the table of routes, and which one a request belongs to."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import DEFAULT_FILE, ConfigFile, fail, load_or_exit, say, table

if TYPE_CHECKING:
    from gateway.model.request import Match
    from gateway.model.route import Route
    from gateway.model.settings import Configuration


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def routes(
        config: ConfigFile = DEFAULT_FILE,
        match: Annotated[str, typer.Option("--match", metavar="'GET /path'", help="Show the chosen route.")] = "",
    ) -> None:
        """Show all routes, or the one of a request."""
        configuration = load_or_exit(config, warnings=False)
        if not match:
            table(["id", "host", "path", "methods", "to", "if IAM is down"], _rows(configuration))
            return
        found = match_or_exit(configuration, *split_request(match))
        say(found.route.id)
        for name, value in found.params.items():
            say(f"  {name} = {value}")


def split_request(text: str) -> tuple[str, str, str]:
    """`GET /path`, `GET host/path`, `GET http://host/path`, or without GET → method, host, target.

    Raises a usage error.
    """
    method, space, rest = text.strip().partition(" ")
    if not space:
        method, rest = "GET", method
    rest = rest.strip().removeprefix("http://").removeprefix("https://")
    host, slash, path = rest.partition("/")
    if not slash:
        raise typer.BadParameter(f"{text!r} is not like 'GET /inventory/7'")
    return method.upper(), host, slash + path


def match_or_exit(configuration: Configuration, method: str, host: str, target: str) -> Match:
    """The chosen route, or exit 1 with the reason."""
    from gateway.errors import GatewayError  # heavy
    from gateway.routing import Router, parse_target

    try:
        return Router(configuration.routes).match(method, parse_target(target.encode()), host)
    except GatewayError as error:
        fail(f"no match: {error.code} ({error.kind.status}) {error.detail}")


def _rows(configuration: Configuration) -> list[list[str]]:
    """A row for each route; what happens without IAM in the words of `gateway validate`."""
    from gateway.config.matrix import failure_matrix  # heavy

    outages: dict[str, list[str]] = {}
    rows = failure_matrix(configuration).rows
    several = {one.route for one, other in pairwise(rows) if one.route == other.route}
    for row in rows:
        text = f"{','.join(row.methods)} {row.text}" if row.route in several else row.text
        outages.setdefault(row.route, []).append(text)
    return [
        [
            route.id,
            route.host or "",
            route.path,
            ",".join(sorted(route.methods)),
            destination(route),
            "; ".join(outages[route.id]),
        ]
        for route in configuration.routes
    ]


def destination(route: Route) -> str:
    """Where a route leads, in a few words."""
    from gateway.model.route import AggregateAction, DecideAction, HealthAction, PermissionsAction

    match route.action:
        case AggregateAction(parts=parts):
            return "aggregate of " + ", ".join(part.name for part in parts)
        case PermissionsAction():
            return "permissions"
        case HealthAction():
            return "health"
        case DecideAction():
            return "decided here, forwarded by another proxy"
        case action:
            return action.upstream
