"""`gateway iam`: the embedded policies as an AuthZEN decision point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import EXIT_CANNOT, fail, note


def register(app: typer.Typer) -> None:
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
