"""`gateway demo` and `gateway drill`: everything on loopback, to be used and to be broken."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import EXIT_CANNOT, fail, load_or_exit, note, say

if TYPE_CHECKING:
    from gateway.demo.supervisor import Supervisor


PortOffset = Annotated[
    int, typer.Option("--port-offset", metavar="N", help="Add N to every port, to run beside something else.")
]


def register(app: typer.Typer) -> None:
    """Add the command, and `env` below it."""
    demo = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    app.add_typer(demo, name="demo")

    @demo.callback()
    def run(
        context: typer.Context,
        config: Annotated[
            Path | None, typer.Option("--config", "-c", metavar="FILE", help="Instead of the shipped routes.yaml.")
        ] = None,
        port_offset: PortOffset = 0,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No access log.")] = False,  # Typer
    ) -> None:
        """Start the demo on this machine.

        Starts toy systems, an IAM and the gateway on loopback. Ctrl-C ends all of it.
        """
        if context.invoked_subcommand is None:
            _start(config, port_offset, quiet=quiet)

    @demo.command()
    def env(port_offset: PortOffset = 0) -> None:
        """Print the demo's addresses and tokens.

        Use it as: eval "$(gateway demo env)".
        """
        from gateway.demo import state  # heavy

        running = state.read(port_offset)
        if running is None:
            fail("no demo is running. Start it with 'gateway demo' in another terminal")
        for name, value in {"gateway": running.gateway, "admin": running.admin, **running.tokens}.items():
            say(f"export {name.upper()}={value}")


def _start(config: Path | None, offset: int, *, quiet: bool) -> None:
    from gateway.demo import state  # heavy
    from gateway.demo.state import Issuer, moved, shipped_folder
    from gateway.demo.supervisor import CannotStartError, Supervisor
    from gateway.pdp.cedar import HOW_TO_INSTALL, installed

    if not installed():
        fail(f"cannot start: the IAM of the demo needs Cedar. {HOW_TO_INSTALL}", EXIT_CANNOT)
    running = state.read(offset)
    if running is not None:
        hint = "another one needs --port-offset"
        fail(f"cannot start: a demo is running already (process {running.pid}); {hint}", EXIT_CANNOT)
    file = (config or shipped_folder() / "routes.yaml").resolve()
    issuer = Issuer()
    try:
        jwks_file = state.runtime_folder() / f"jwks-{offset}.json"
        issuer.write_jwks(jwks_file)
        if offset:
            file = moved(file, offset, state.runtime_folder() / f"moved-{offset}")
    except (OSError, ValueError) as error:
        fail(f"cannot start: {error}", EXIT_CANNOT)
    os.environ["GATEWAY_JWKS_FILE"] = str(jwks_file)
    configuration = load_or_exit(file, warnings=False)
    try:
        asyncio.run(_run(Supervisor(configuration, issuer, jwks_file, quiet=quiet, offset=offset), file))
    except CannotStartError as error:
        fail(str(error), EXIT_CANNOT)


async def _run(supervisor: Supervisor, file: Path) -> None:
    until, announce = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not until.is_set():
            note("ending the demo")
        until.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    running = asyncio.create_task(supervisor.run(until, announce))
    announced = asyncio.create_task(announce.wait())
    await asyncio.wait((running, announced), return_when=asyncio.FIRST_COMPLETED)
    if announce.is_set():
        _introduce(supervisor, file)
    announced.cancel()
    await running


def _introduce(supervisor: Supervisor, file: Path) -> None:
    """What this is, where to look, what to try."""
    program, url = _program(), supervisor.gateway_url
    option = f" --port-offset {supervisor.offset}" if supervisor.offset else ""
    say(f"""
This is the gateway in front of {len(supervisor.toys)} toy systems. Before it forwards a request it
asks an IAM, which is a process of its own here. You can use it, and break it.

  gateway      {url}
  status page  {supervisor.admin_url}
  IAM          {supervisor.iam_url}
  routes       {file}

Try it in a second terminal. First get the addresses and tokens (alice is an
operator, bob may look, mallory has no rights):

  eval "$({program} demo env{option})"
  curl -i -H "Authorization: Bearer $ALICE" $GATEWAY/inventory/7
  curl -i -H "Authorization: Bearer $MALLORY" $GATEWAY/inventory/7
  curl -s -H "Authorization: Bearer $ALICE" $GATEWAY/audit/users/john.doe@wheels.com

Kill IAM for 30 seconds, and watch what callers see:

  {program} drill iam-down{option}

Ctrl-C ends all of it.
""")


def _program() -> str:
    """How another terminal calls this program: by its name where a shell finds it, else in full."""
    return "gateway" if shutil.which("gateway") else f"{sys.executable} -m gateway"


# `gateway drill`: break a part of the running demo and see what callers see.

_FAULTS = "iam-down, iam-hang, iam-slow, iam-errors, upstream-down, upstream-hang, upstream-slow or upstream-errors."


def register_drill(app: typer.Typer) -> None:
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
