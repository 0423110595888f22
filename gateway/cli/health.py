"""`gateway health`: the health of all systems, asked of a running gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.output import Format, fail, note, say, say_json, table

PATIENCE_S = 30.0


def register(app: typer.Typer) -> None:
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
        """Ask a running gateway how all systems are."""
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
    import httpx  # noqa: PLC0415 - heavy

    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            reply = client.get(admin.rstrip("/") + "/health/systems", headers=headers)
            reply.raise_for_status()
            report: dict[str, Any] = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fail(f"cannot ask {admin}: {str(error) or type(error).__name__}")
    return report


def _show(report: dict[str, Any]) -> None:
    rows = [
        [
            name,
            "up" if system["available"] else "DOWN",
            f"{system['response_time_ms']} ms" if system["available"] else system.get("error", ""),
            system.get("circuit", ""),
            f"{system['retry_after']} s" if "retry_after" in system else "",
        ]
        for name, system in report["systems"].items()
    ]
    table(["system", "state", "answer", "circuit", "retry after"], rows)
    summary = report["summary"]
    share = f"({summary['availability_percentage']} %)"
    say(f"{summary['available_systems']} of {summary['total_systems']} systems available {share}")
