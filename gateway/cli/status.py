"""`gateway status`, `gateway health`, `gateway reload`: asking a running gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gateway.cli.output import (
    DEFAULT_ADMIN,
    EXIT_BAD,
    EXIT_CANNOT,
    AdminToken,
    AdminUrl,
    Format,
    ask,
    fail,
    note,
    say,
    say_json,
    table,
)


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


# `gateway health`: the health of all systems, asked of a running gateway.

PATIENCE_S = 30.0
_TOKEN_WANTED = frozenset({401, 403})


def register_health(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def health(
        admin: Annotated[str, typer.Option(metavar="URL", help="The admin listener.")] = "http://127.0.0.1:9901",
        output: Annotated[Format, typer.Option(help="How to show it.")] = Format.TEXT,
        require: Annotated[
            int, typer.Option(min=0, max=100, metavar="PERCENT", help="Exit 1 when fewer systems are available.")
        ] = 0,
        token: Annotated[str, typer.Option(envvar="GATEWAY_ADMIN_TOKEN", help="The admin token, if one is set.")] = "",
    ) -> None:
        """Show how all systems are.

        Asks a running gateway.
        """
        report = _fetch(admin, token)
        if output is Format.JSON:
            say_json(report)
        else:
            _show(report)
        available = report["summary"]["availability_percentage"]
        if available < require:
            note(f"{available} % of the systems are available, {require} % are required")
            raise typer.Exit(1)


def _fetch(admin: str, token: str) -> dict[str, Any]:
    import httpx  # heavy

    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            reply = client.get(admin.rstrip("/") + "/health/systems", headers=headers)
        report: dict[str, Any] = reply.json() if reply.is_success else {}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fail(f"cannot ask {admin}: {str(error) or type(error).__name__}")
    if not reply.is_success:
        fail(f"cannot ask {admin}: it answers {reply.status_code}{_hint(reply.status_code)}")
    if not _is_report(report):
        fail(f"cannot ask {admin}: what it answers is no health report; is this the admin listener?")
    return report


def _hint(status: int) -> str:
    return "; the admin token is needed: --token or GATEWAY_ADMIN_TOKEN" if status in _TOKEN_WANTED else ""


def _is_report(document: Any) -> bool:
    """Whether it has what is shown of it."""
    try:
        systems, summary = document["systems"], document["summary"]
        counts = [summary[name] for name in ("availability_percentage", "available_systems", "total_systems")]
        return all(isinstance(count, int) for count in counts) and all("available" in each for each in systems.values())
    except (AttributeError, KeyError, TypeError):
        return False


def _state(system: dict[str, Any]) -> str:
    """As the status page says it: what answers may still not be asked."""
    if not system["available"]:
        return "DOWN"
    return "up" if system.get("circuit", "closed") == "closed" else f"answers, circuit {system['circuit']}"


def _show(report: dict[str, Any]) -> None:
    rows = [
        [
            name,
            _state(system),
            f"{system.get('response_time_ms', '?')} ms"
            if system["available"]
            else system.get("cause") or system.get("error", ""),
            system.get("circuit", ""),
            f"{system['retry_after']} s" if "retry_after" in system else "",
        ]
        for name, system in report["systems"].items()
    ]
    table(["system", "state", "answer", "circuit", "retry after"], rows)
    summary = report["summary"]
    share = f"({summary['availability_percentage']} %)"
    say(f"{summary['available_systems']} of {summary['total_systems']} systems available {share}")


# `gateway reload`: let a running gateway load its configuration again.


def register_reload(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def reload(admin: AdminUrl = DEFAULT_ADMIN, token: AdminToken = "") -> None:
        """Make a running gateway reload its files.

        Shows all mistakes if it refuses.
        """
        answer = ask("POST", admin, "/-/reload", token)
        if answer.get("reloaded") is True:
            say("reloaded")
            return
        note("refused, the configuration before goes on serving:")
        for problem in answer.get("problems") or ["it does not say why"]:
            note(str(problem))
        raise typer.Exit(EXIT_BAD)
