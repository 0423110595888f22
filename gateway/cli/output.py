"""What commands share: how they speak, loading `routes.yaml`, and asking a running gateway."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.model.settings import Configuration


EXIT_BAD = 1
EXIT_UNREADABLE = 2
EXIT_CANNOT = 3


class Format(StrEnum):
    """`--output`."""

    TEXT = "text"
    JSON = "json"


def say(text: str) -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line of diagnostics."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(document: Any) -> None:
    """A JSON document as data."""
    say(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def fail(text: str, code: int = EXIT_BAD) -> NoReturn:
    """One clear line, and the exit code."""
    note(text)
    raise typer.Exit(code)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows as a table: laid out on a terminal, tab-separated (header included) for programs.

    Nothing is cut. Where the table does not fit into the terminal, each row is a block of lines.
    """
    if not sys.stdout.isatty():
        for row in (header, *rows):
            say("\t".join(row))
        return
    from rich.console import Console  # heavy, and only for terminals
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = Table(*header, header_style="bold", box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    natural = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(natural) + 2 * (len(natural) - 1) <= console.width:
        console.print(shown)
        return
    wide = max(map(len, header[1:]), default=0)
    for first, *others in rows:
        console.print(Text(first, "bold"), soft_wrap=True)
        for name, cell in zip(header[1:], others, strict=True):
            if cell:
                console.print(Text(f"  {name:<{wide}}  {cell}"), soft_wrap=True)


# Loading `routes.yaml` for a command: every mistake on stderr, exit 1.

ConfigFile = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration to use.")]
DEFAULT_FILE = Path("routes.yaml")


def load_or_exit(file: Path, *, warnings: bool = True) -> Configuration:
    """The configuration, or its mistakes on stderr and exit code 1."""
    from gateway.config import ConfigurationError, load  # heavy
    from gateway.pdp.check import access_problems, needs_access_policies

    try:
        configuration = load(file, os.environ)
    except ConfigurationError as error:
        fail(str(error))
    if needs_access_policies(configuration) and (mistakes := access_problems(configuration)):
        fail("\n".join(map(str, mistakes)))
    if warnings:
        for warning in configuration.warnings:
            note(warning)
    return configuration


# Asking the admin listener of a running gateway: what `gateway reload` and `gateway status` share.

AdminUrl = Annotated[str, typer.Option(metavar="URL", help="The admin listener.")]
DEFAULT_ADMIN = "http://127.0.0.1:9901"
AdminToken = Annotated[str, typer.Option(envvar="GATEWAY_ADMIN_TOKEN", help="The admin token, if one is set.")]
PATIENCE_S = 60.0
_TOKEN_WANTED = frozenset({401, 403})
_REFUSED = 422


def ask(method: str, admin: str, path: str, token: str) -> dict[str, Any]:
    """The JSON document that it answers, also of a refused change.

    Exit 3 where it cannot be reached, 1 where it answers anything else.
    """
    import httpx  # heavy

    headers = {"x-gateway-admin": "1"} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            reply = client.request(method, admin.rstrip("/") + path, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fail(f"cannot ask {admin}: {str(error) or type(error).__name__}", EXIT_CANNOT)
    if not reply.is_success and reply.status_code != _REFUSED:
        hint = "; the admin token is needed: --token or GATEWAY_ADMIN_TOKEN"
        fail(f"{admin} answers {reply.status_code}{hint if reply.status_code in _TOKEN_WANTED else ''}")
    try:
        document = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        fail(f"cannot ask {admin}: what it answers is no JSON object; is this the admin listener?", EXIT_CANNOT)
    return document
