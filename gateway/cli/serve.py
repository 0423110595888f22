"""`gateway serve`: serve a configuration until told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.configuration import DEFAULT_FILE, ConfigFile, load_or_exit
from gateway.cli.output import EXIT_CANNOT, fail

if TYPE_CHECKING:
    from gateway.app.run import Overrides


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def serve(
        config: ConfigFile = DEFAULT_FILE,
        listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Instead of server.listen.")] = "",
        admin: Annotated[str, typer.Option(metavar="HOST:PORT", help="Instead of server.admin.")] = "",
        workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve.")] = 1,
        drain_notice: Annotated[str, typer.Option(metavar="TIME", help="Instead of server.drain_notice.")] = "",
        drain_timeout: Annotated[str, typer.Option(metavar="TIME", help="Instead of server.drain_timeout.")] = "",
    ) -> None:
        """Serve until SIGTERM or SIGINT. $GATEWAY_ADMIN_TOKEN is the admin token of a file that names none."""
        from gateway.app import run  # heavy

        try:
            overrides = run.Overrides.parse(listen, admin, drain_notice, drain_timeout)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if run.is_worker():
            _serve_as_worker(config, overrides)
        else:
            _serve(config, overrides, workers)


def _serve(config: Path, overrides: Overrides, workers: int) -> None:
    from gateway.app import run  # heavy
    from gateway.telemetry import line_of

    configuration = load_or_exit(config, warnings=False)  # the log tells them
    as_json = configuration.server.log == "json"
    try:
        run.serve(configuration, overrides, workers=workers)
    except run.CannotServeError as error:
        fail(line_of(configuration.server, logging.ERROR, str(error)) if as_json else str(error), EXIT_CANNOT)
    except run.NotAllowedError as error:
        fail(line_of(configuration.server, logging.ERROR, str(error)) if as_json else str(error))


def _serve_as_worker(config: Path, overrides: Overrides) -> None:
    from gateway.app import run  # heavy
    from gateway.config import ConfigurationError

    try:
        run.serve_as_worker(config, overrides)
    except (ConfigurationError, ValueError) as error:
        fail(str(error))
