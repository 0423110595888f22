"""The command line. One small file a command, each with `register(app)`; heavy imports are inside the commands.

Rules (CONTRACT.md section 11): data on stdout, diagnostics on stderr; tables and colour only on a terminal, `NO_COLOR`
obeyed; exit code 2 is always a usage error; what a user did wrong is one clear line, never a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import demo, drill, explain, health, iam, policy, routes, schema, serve, validate

app = typer.Typer(
    name="gateway",
    help="A reverse proxy that asks IAM once, and has a defined answer for when IAM cannot answer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (serve, validate, routes, explain, schema, health, iam, policy, demo, drill):
    _command.register(app)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback signature
    if wanted:
        print(f"gateway {__version__}")  # noqa: T201 - data on stdout
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point of `gateway` and of `python -m gateway`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
