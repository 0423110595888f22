"""`gateway schema`: the JSON Schema of routes.yaml, for editors."""

from __future__ import annotations

import typer

from gateway.cli.output import say_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def schema() -> None:
        """Print the JSON Schema of routes.yaml."""
        from gateway.config.reference import json_schema  # heavy

        say_json(json_schema())
