"""`gateway drill`: break a part of the running demo and see what callers see."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.cli.demo import PortOffset
from gateway.cli.output import fail, note, say

_FAULTS = "iam-down, iam-hang, iam-slow, iam-errors, upstream-down, upstream-hang, upstream-slow or upstream-errors."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def drill(
        fault: Annotated[str, typer.Argument(help=_FAULTS, show_default=False, metavar="FAULT")],
        duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long it stays broken.")] = "30s",
        system: Annotated[str, typer.Option("--system", help="The system that upstream-* breaks.")] = "monitoring",
        port_offset: PortOffset = 0,
    ) -> None:
        """Break a part of the running demo.

        Shows each second what callers see.
        """
        import httpx  # heavy

        from gateway.config.values import parse_duration
        from gateway.demo import state
        from gateway.demo.drill import FAULTS, Drill, NoSuchPartError
        from gateway.demo.view import view_for

        if fault not in FAULTS:
            raise typer.BadParameter(f"{fault!r} is none of {', '.join(FAULTS)}")
        try:
            for_s = parse_duration(duration)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        running = state.read(port_offset)
        if running is None:
            fail("no demo is running. Start it with 'gateway demo' in another terminal")
        try:
            asyncio.run(Drill(running, FAULTS[fault], system, view_for(say)).run(for_s))
        except NoSuchPartError as error:
            fail(str(error))
        except (httpx.HTTPError, KeyError, ValueError) as error:
            note(f"the drill ended early: {error!r}")
            raise typer.Exit(1) from None
