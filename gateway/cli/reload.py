"""`gateway reload`: let a running gateway load its configuration again."""

from __future__ import annotations

import typer

from gateway.cli.operator import DEFAULT_ADMIN, AdminToken, AdminUrl, ask
from gateway.cli.output import EXIT_BAD, note, say


def register(app: typer.Typer) -> None:
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
