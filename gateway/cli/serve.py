"""`gateway serve` and `gateway iam`: serve until told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import DEFAULT_FILE, EXIT_CANNOT, ConfigFile, fail, load_or_exit, note

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
    from gateway.app import pauses, run  # heavy
    from gateway.telemetry import line_of

    if workers == 1:  # a supervisor serves nothing
        pauses.wait()
    configuration = load_or_exit(config, warnings=False)  # the log tells them
    as_json = configuration.server.log == "json"
    try:
        run.serve(configuration, overrides, workers=workers)
    except run.CannotServeError as error:
        fail(line_of(configuration.server, logging.ERROR, str(error)) if as_json else str(error), EXIT_CANNOT)
    except run.NotAllowedError as error:
        fail(line_of(configuration.server, logging.ERROR, str(error)) if as_json else str(error))


def _serve_as_worker(config: Path, overrides: Overrides) -> None:
    from gateway.app import pauses, run  # heavy
    from gateway.config import ConfigurationError

    pauses.wait()
    try:
        run.serve_as_worker(config, overrides)
    except (ConfigurationError, ValueError) as error:
        fail(str(error))


# `gateway iam`: the embedded policies as an AuthZEN decision point.


def register_iam(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def iam(
        policies: Annotated[Path, typer.Option(metavar="FOLDER", help="*.cedar files and entities.json.")] = Path(
            "policies/access"
        ),
        listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8181",
        *,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every decision.")] = False,
        control: Annotated[
            bool, typer.Option("--control", help="For drills: POST /-/fault from this machine breaks the server.")
        ] = False,
        capacity: Annotated[int, typer.Option(min=0, help="For drills: requests answered at a time; 0 = any.")] = 0,
        delay_ms: Annotated[float, typer.Option(min=0, max=60_000, help="For drills: time that each takes.")] = 0,
    ) -> None:
        """Serve access policies as an IAM (AuthZEN).

        SIGHUP loads the policies again.
        """
        from gateway.app.deciding import CannotListenError, IamOptions, parse_address, serve  # heavy
        from gateway.pdp.faults import Capacity
        from gateway.pdp.problem import PolicyError

        try:
            address = parse_address(listen)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--listen") from None
        _log_to_stderr()
        small = Capacity(capacity, delay_ms / 1000)
        try:
            serve(IamOptions(folder=policies, listen=address, verbose=verbose, control=control, capacity=small), note)
        except PolicyError as error:
            fail(str(error))
        except CannotListenError as error:
            fail(str(error), EXIT_CANNOT)


def _log_to_stderr() -> None:
    import logging  # only commands that log need it

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("gateway.pdp").setLevel(logging.INFO)
