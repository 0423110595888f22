"""`gateway demo`: everything on loopback, to be used and to be broken."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.configuration import load_or_exit
from gateway.cli.output import EXIT_CANNOT, fail, say

if TYPE_CHECKING:
    from gateway.demo.supervisor import Supervisor


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def demo(
        config: Annotated[
            Path | None, typer.Option("--config", "-c", metavar="FILE", help="Instead of the shipped routes.yaml.")
        ] = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No access log.")] = False,  # noqa: FBT002 - Typer
    ) -> None:
        """Start toy systems, IAM and the gateway on loopback. Ctrl-C ends all of it."""
        from gateway.demo import state  # noqa: PLC0415 - heavy
        from gateway.demo.shipped import shipped_folder  # noqa: PLC0415
        from gateway.demo.supervisor import CannotStartError, Supervisor  # noqa: PLC0415
        from gateway.demo.tokens import Issuer  # noqa: PLC0415

        running = state.read()
        if running is not None:
            fail(f"cannot start: a demo is running already (process {running.pid})", EXIT_CANNOT)
        file = config or shipped_folder() / "routes.yaml"
        issuer = Issuer()
        try:
            jwks_file = state.runtime_folder() / "jwks.json"
            issuer.write_jwks(jwks_file)
        except OSError as error:
            fail(f"cannot start: {error}", EXIT_CANNOT)
        os.environ["GATEWAY_JWKS_FILE"] = str(jwks_file)
        configuration = load_or_exit(file.resolve(), warnings=False)
        try:
            supervisor = Supervisor(configuration, issuer, jwks_file, quiet=quiet)
            asyncio.run(_run(supervisor))
        except CannotStartError as error:
            fail(str(error), EXIT_CANNOT)


async def _run(supervisor: Supervisor) -> None:
    until, announce = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, until.set)
    running = asyncio.create_task(supervisor.run(until, announce))
    announced = asyncio.create_task(announce.wait())
    await asyncio.wait((running, announced), return_when=asyncio.FIRST_COMPLETED)
    if announce.is_set():
        _introduce(supervisor)
    announced.cancel()
    await running


def _introduce(supervisor: Supervisor) -> None:
    """Addresses, tokens and lines to try."""
    gateway, admin = supervisor.gateway_url, supervisor.admin_url
    say(f"""
gateway   {gateway}
admin     {admin}   (status page, /metrics, /health/systems)
IAM       {supervisor.iam_url}
systems   {", ".join(supervisor.toys)}

export ALICE={supervisor.tokens["alice"]}
export BOB={supervisor.tokens["bob"]}
export MALLORY={supervisor.tokens["mallory"]}
  alice is an operator, bob a viewer, mallory has no rights. The tokens end with this run's key.

Try, in a second terminal with the three lines above:
  curl -i -H "Authorization: Bearer $ALICE" {gateway}/inventory/7
  curl -i -H "Authorization: Bearer $BOB" -X POST -d '{{}}' {gateway}/inventory/switches
  curl -i -H "Authorization: Bearer $MALLORY" {gateway}/inventory/7
  curl -s -H "Authorization: Bearer $ALICE" {gateway}/registry/navigation
  curl -s -H "Authorization: Bearer $ALICE" {gateway}/audit/users/john.doe@wheels.com
Break it and watch:
  {_program()} drill iam-down --for 30s

Ctrl-C ends all of it.
""")


def _program() -> str:
    """How another terminal calls this program: by its name where a shell finds it, else in full."""
    return "gateway" if shutil.which("gateway") else f"{sys.executable} -m gateway"
