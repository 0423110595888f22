"""The command line. Each command has a function that registers it; heavy imports are inside the commands.

Rules (README.md): data on stdout, diagnostics on stderr; tables and colour only on a terminal, `NO_COLOR`
obeyed; exit code 2 is always a usage error; what a user did wrong is one clear line, never a traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway import build
from gateway.cli import completion, demo, explain, export, init, policy, replay, routes, serve, status, validate

app = typer.Typer(
    name="gateway",
    help="A reverse proxy that asks IAM once before it forwards. It has a defined answer for when IAM cannot answer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_CANNOT_WRITE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})

for _register in (
    serve.register,
    validate.register,
    routes.register,
    explain.register,
    validate.register_diff,
    replay.register,
    replay.register_report,
    validate.register_schema,
    status.register_health,
    status.register_reload,
    status.register,
    serve.register_iam,
    policy.register,
    demo.register,
    demo.register_drill,
    export.register,
    init.register,
    completion.register,
):
    _register(app)


def _show_version(wanted: bool) -> None:  # Typer's callback signature
    if wanted:
        print(f"gateway {build()}")  # noqa: T201 - data on stdout
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
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the program
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        _stop_writing()
        if not isinstance(error, BrokenPipeError):  # who reads no further knows why
            sys.stderr.write(f"cannot write: {error.strerror or error}\n")
        sys.exit(1)


def _run() -> None:
    """Run the command. What it wrote is out, or OSError says that it can't be."""
    completion.complete_if_asked()
    try:
        app()
    finally:
        sys.stdout.flush()


def _stop_writing() -> None:
    """Let what is still buffered go nowhere, or the interpreter would try it again on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
