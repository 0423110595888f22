"""`gateway serve`: serve a configuration until told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.configuration import DEFAULT_FILE, ConfigFile, load_or_exit
from gateway.cli.output import EXIT_CANNOT, fail


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def serve(
        config: ConfigFile = DEFAULT_FILE,
        listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Instead of server.listen.")] = "",
        admin: Annotated[str, typer.Option(metavar="HOST:PORT", help="Instead of server.admin.")] = "",
        workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve.")] = 1,
    ) -> None:
        """Serve until SIGTERM or SIGINT."""
        from gateway.app import run  # noqa: PLC0415 - heavy

        configuration = load_or_exit(config)
        try:
            overrides = run.Overrides.parse(listen, admin)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        try:
            run.serve(configuration, overrides, workers=workers)
        except run.CannotServeError as error:
            fail(str(error), EXIT_CANNOT)
        except run.NotAllowedError as error:
            fail(str(error))
